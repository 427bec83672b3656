"""FedRep: each round trains first the head on the received adapter, then the adapter below the fixed head.

Collins, Hassani, Mokhtari, Shakkottai: "Exploiting Shared Representations for Personalized Federated Learning",
ICML 2021, arXiv 2102.07078, algorithm 1. In the paper, each phase has its own number of epochs. Here,
``algorithm.head_share`` divides the round's steps, so that methods compare at the same amount of computing: with two
epochs and a share of 0.5, each phase has one epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.config import AlgorithmConfig, ConfigError, RunConfig


class FedRep(Algorithm):
    """The head and then the global adapter train on the task loss; the adapter travels."""

    name = "fedrep"
    reads = ("head_share",)
    trains = ("global",)
    routes = ("global",)
    trains_head_alone = True
    hides_gradients = True

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm itself.

        Raises:
            ConfigError: a personal fusion between adapter and head would train in neither phase.
        """
        if config.fusion.kind == "transformer" and config.fusion.side == "personal":
            raise ConfigError("fusion.side: personal, but fedrep trains heads on fixed features; expected shared")
        return self

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one forward pass; steps of the head need no backward pass through the backbone."""
        return 1.0, 1.0 - config.head_share

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the head or, in the second part of the round, of the adapter."""
        head = context.step < round(context.config.head_share * context.steps)
        with torch.set_grad_enabled(not head):
            features = learner.features("global")
        loss = learner.task_loss(learner.logits(features))
        learner.update(loss, adapters=() if head else ("global",), head=head)
        return {"loss": loss.detach()}
