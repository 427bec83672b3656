"""Ditto: FedAvg's shared adapter, and a personal adapter that stays close to it.

Li, Hu, Beirami, Smith: "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,
arXiv 2012.04221, algorithm 1; wᵗ is the received adapter:

    w ← w − η · ∇task(w)                        travels
    v ← v − η · (∇task(v) + λ · (v − wᵗ))       stays
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext, separate_heads
from feddat.algorithms.proximal import squared_distance
from feddat.config import AlgorithmConfig


class Ditto(Algorithm):
    """Both adapters train on every batch, one after the other (``algorithm.ditto_lambda``, ``algorithm.heads``)."""

    name = "ditto"
    reads = ("heads", "ditto_lambda")
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("local", "global")
    logs = ("loss", "task_global", "task_local")
    local_from_global = True
    hides_gradients = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the global route's own head if ``algorithm.heads`` asks for it."""
        return separate_heads(config)

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Start the personal adapter from the first received one."""
        if context.previous is None:
            learner.copy("global", "local")

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind per adapter."""
        return 2.0, 2.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step for each adapter; logs ``loss`` (the sum of both), ``task_global`` and ``task_local``."""
        head = self.heads(context.config).get("global", MAIN_HEAD)
        task_global = learner.task_loss(learner.logits(learner.features("global"), head))
        learner.update(task_global)

        task_local = learner.task_loss(learner.logits(learner.features("local")))
        distance = squared_distance(learner.adapter("local"), learner.adapter("anchor"))
        loss_local = task_local + 0.5 * context.config.ditto_lambda * distance
        learner.update(loss_local)
        return {
            "loss": (task_global + loss_local).detach(),
            "task_global": task_global.detach(),
            "task_local": task_local.detach(),
        }
