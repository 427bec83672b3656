"""The upper reference: one adapter trained where all data lies in one place, one head per client."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, task_step


class Central(Algorithm):
    """The global adapter trains on the task loss of every client; nothing travels, because nothing is apart."""

    name = "central"
    trains = ("global",)
    communicates = False
    centralised = True
    routes = ("global",)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
