"""FedAvg of one adapter per client, with personal heads (McMahan et al., AISTATS 2017, arXiv 1602.05629)."""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Learner, StepContext, task_step


class FedAvg:
    """The global adapter trains on the task loss and travels."""

    name: str = "fedavg"
    trains: tuple[str, ...] = ("global",)
    communicates: bool = True
    centralised: bool = False
    routes: tuple[str, ...] = ("global",)

    def step(self, learner: Learner, context: StepContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
