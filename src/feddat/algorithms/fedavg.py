"""FedAvg with one adapter per client and personal heads (McMahan et al., AISTATS 2017, arXiv 1602.05629)."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, task_step


class FedAvg(Algorithm):
    """The global adapter trains on the task loss and travels."""

    name = "fedavg"
    trains = ("global",)
    routes = ("global",)
    hides_gradients = True

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
