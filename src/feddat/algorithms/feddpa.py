"""FedDPA-T: a global and a local adapter, mixed for every question by its similarity to the client's training data.

Yang, Long, Shen, Jiang, Blumenstein: "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024,
arXiv 2403.19211. The global adapter trains on its own, as in FedAvg. The local adapter trains together with it; its
weight is ``algorithm.local_weight`` (default: half).

For an answer, the question's features are compared with those of a few training examples (``algorithm.instances``).
The local adapter's weight is α = local_weight · mean cosine similarity, and the global adapter's weight is 1 - α. The
paper takes the features of the model with the local adapter. This version takes the features of the frozen model,
which do not change between rounds. Below a similarity of 0, the local adapter's weight is 0.

The authors' code trains one adapter for all epochs of a round and then the other, the local one from the second round
on. Here both take a step on every batch, from the first round on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext, separate_heads
from feddat.config import AlgorithmConfig

#: Name of the client's own tensor with features of training examples, (instances, d).
INSTANCES = "instances"


class FedDPA(Algorithm):
    """The global adapter trains and travels; the local one trains together with it and stays (``algorithm.heads``)."""

    name = "feddpa"
    reads = ("heads", "instances", "local_weight")
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("mixed", "local", "global")
    logs = ("loss", "task_global", "task_mixed")
    reads_features = True
    hides_gradients = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the global route's own head if ``algorithm.heads`` asks for it."""
        return separate_heads(config)

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind with the global adapter and with both."""
        return 2.0, 2.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the global adapter, then one of the local adapter in the mixture, each with its head.

        Returns:
            ``loss`` and its parts ``task_global`` and ``task_mixed``.
        """
        _remember(learner, context)
        head = self.heads(context.config).get("global", MAIN_HEAD)
        task_global = learner.task_loss(learner.logits(learner.features("global"), head))
        learner.update(task_global, adapters=("global",))
        local = context.config.local_weight
        task_mixed = learner.task_loss(learner.logits(learner.features({"local": local, "global": 1 - local})))
        learner.update(task_mixed, adapters=("local",))
        values = {"loss": task_global + task_mixed, "task_global": task_global, "task_mixed": task_mixed}
        return {name: value.detach() for name, value in values.items()}

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on one adapter, or on route ``mixed`` with both, weighed for each question."""
        if route != "mixed":
            return super().answer(learner, route, context)
        local = local_weights(learner.features("none"), context).view(-1, 1, 1)
        return learner.answers({"local": local, "global": 1 - local})


def local_weights(features: Tensor, context: RoundContext) -> Tensor:
    """Return α, the weight of the local adapter, (N,), for features (N, d) of the frozen model.

    A client that has never trained has no examples to compare with; its α is ``local_weight``.
    """
    known = context.state.get(INSTANCES)
    if known is None:
        return features.new_full((len(features),), context.config.local_weight)
    similar = functional.cosine_similarity(features[:, None], known.to(features.dtype)[None], dim=-1)
    return context.config.local_weight * similar.mean(dim=1).clamp(min=0)


def _remember(learner: Learner, context: RoundContext) -> None:
    """Keep the features of the round's first examples, which are a random sample."""
    if context.step == 0:
        context.state.pop(INSTANCES, None)
    known = context.state.get(INSTANCES)
    missing = context.config.instances - (0 if known is None else len(known))
    if missing > 0:
        with torch.no_grad():
            new = learner.features("none")[:missing]
        context.state[INSTANCES] = new if known is None else torch.cat([known, new])
