"""Head only: every client trains its own head on the unchanged frozen model; nothing is communicated."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, task_step
from feddat.config import AlgorithmConfig


class Head(Algorithm):
    """The head trains on the task loss with all adapters off."""

    name = "head"
    trains = ()
    communicates = False
    routes = ("none",)
    trains_head_alone = True

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one forward pass."""
        return 1.0, 0.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "none")
