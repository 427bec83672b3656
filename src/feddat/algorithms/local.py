"""Local-only adapters: every client trains its own; nothing is communicated."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, task_step


class Local(Algorithm):
    """The local adapter trains on the task loss and never travels."""

    name = "local"
    trains = ("local",)
    keeps = ("local", "anchor")
    communicates = False
    routes = ("local",)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "local")
