"""FedAvg and local training side by side: two adapters with heads of their own, and a mixture of their answers.

The reference for methods with two adapters, at the same compute: here the adapters have nothing to do with each other.
Each one trains as it would alone, so the global route is FedAvg (:mod:`.fedavg`) and the local one is :mod:`.local`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from feddat.algorithms.base import Learner, RoundContext
from feddat.algorithms.mixed_answers import MixedAnswers
from feddat.config import AlgorithmConfig

#: Name of the global route's head; the local route has the main one.
GLOBAL_HEAD = "global"


class FedAvgLocal(MixedAnswers):
    """Both adapters train on every batch, each alone; a client mixes their answers by its validation data."""

    name = "fedavg-local"
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("mixed", "local", "global")
    mixes = ("local", "global")
    logs = ("loss", "task_global", "task_local")
    kinds = ("bottleneck", "lora")
    needs = "two adapters in one model"
    hides_gradients = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the global route's own head."""
        return {"global": GLOBAL_HEAD}

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind per adapter."""
        return 2.0, 2.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step for each adapter; logs ``loss`` (the sum of both), ``task_global`` and ``task_local``."""
        task_global = learner.task_loss(learner.logits(learner.features("global"), GLOBAL_HEAD))
        learner.update(task_global)
        task_local = learner.task_loss(learner.logits(learner.features("local")))
        learner.update(task_local)
        return {
            "loss": (task_global + task_local).detach(),
            "task_global": task_global.detach(),
            "task_local": task_local.detach(),
        }
