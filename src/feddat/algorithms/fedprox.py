"""FedProx: FedAvg with a proximal term that keeps the adapter close to the received one.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv 1812.06127, equation 2:

    h(w) = task(w) + μ/2 · ‖w − wᵗ‖²
"""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.proximal import squared_distance


class FedProx(Algorithm):
    """The global adapter trains close to the anchor (the received adapter) and travels (``algorithm.fedprox_mu``)."""

    name = "fedprox"
    reads = ("fedprox_mu",)
    trains = ("global",)
    routes = ("global",)
    logs = ("loss", "task", "distance")

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step; logs ``loss`` and its parts ``task`` and ``distance`` (squared)."""
        task = learner.task_loss(learner.logits(learner.features("global")))
        distance = squared_distance(learner.adapter("global"), learner.adapter("anchor"))
        loss = task + 0.5 * context.config.fedprox_mu * distance
        learner.update(loss)
        return {"loss": loss.detach(), "task": task.detach(), "distance": distance.detach()}
