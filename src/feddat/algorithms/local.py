"""Local-only adapters: every client trains its own, nothing is communicated."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Learner, StepContext, task_step


class Local:
    """The local adapter trains on the task loss and never travels."""

    name: str = "local"
    trains: tuple[str, ...] = ("local",)
    communicates: bool = False
    centralised: bool = False
    routes: tuple[str, ...] = ("local",)

    def step(self, learner: Learner, context: StepContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "local")
