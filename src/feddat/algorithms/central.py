"""The upper reference: one adapter trained on all data in one place, with one head per client."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, task_step


class Central(Algorithm):
    """The global adapter trains on the task loss of every client; nothing travels."""

    name = "central"
    trains = ("global",)
    communicates = False
    centralised = True
    routes = ("global",)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
