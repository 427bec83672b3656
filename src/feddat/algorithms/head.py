"""Head only: the frozen model as it is, every client trains its own head, nothing is communicated."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Learner, StepContext, task_step


class Head:
    """The head trains on the task loss with all adapters off."""

    name: str = "head"
    trains: tuple[str, ...] = ()
    communicates: bool = False
    centralised: bool = False
    routes: tuple[str, ...] = ("none",)

    def step(self, learner: Learner, context: StepContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "none")
