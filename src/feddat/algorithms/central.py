"""The upper reference: one adapter trained where all data lies in one place, one head per client."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Learner, StepContext, task_step


class Central:
    """The global adapter trains on the task loss of every client; nothing travels, because nothing is apart."""

    name: str = "central"
    trains: tuple[str, ...] = ("global",)
    communicates: bool = False
    centralised: bool = True
    routes: tuple[str, ...] = ("global",)

    def step(self, learner: Learner, context: StepContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
