"""pFedMe: the shared adapter follows a personal adapter that every batch optimises again around it.

Dinh, Tran, Nguyen: "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020, arXiv 2006.08848,
algorithm 1:

    θ ≈ argmin task(θ) + λ/2 · ‖θ − w‖²          K steps on the same batch; stays
    w ← w − η · λ · (w − θ)                       travels

For the paper's server step β, use ``server.rule=fedavgm`` with ``server.options.server_learning_rate``; 1 is the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.proximal import squared_distance
from feddat.config import AlgorithmConfig


class PFedMe(Algorithm):
    """Gradients move only the local adapter θ (``algorithm.pfedme_lambda``, ``pfedme_steps``, ``pfedme_lr``)."""

    name = "pfedme"
    reads = ("pfedme_lambda", "pfedme_steps", "pfedme_lr")
    trains = ("local",)
    keeps = ("local",)
    routes = ("local", "global")
    logs = ("loss", "task")
    local_from_global = True

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Start θ from the received w."""
        learner.copy("global", "local")

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind per step of θ."""
        return float(config.pfedme_steps), float(config.pfedme_steps)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take K steps of θ and the head, then one of w; logs the last ``loss`` and its part ``task``."""
        config = context.config
        for _ in range(config.pfedme_steps):
            task = learner.task_loss(learner.logits(learner.features("local")))
            distance = squared_distance(learner.adapter("local"), learner.adapter("global"))
            loss = task + 0.5 * config.pfedme_lambda * distance
            learner.update(loss, adapters=("local",))
        theta = learner.adapter("local")
        with torch.no_grad():
            for key, value in learner.adapter("global").items():
                value.lerp_(theta[key], config.pfedme_lr * config.pfedme_lambda)
        return {"loss": loss.detach(), "task": task.detach()}
