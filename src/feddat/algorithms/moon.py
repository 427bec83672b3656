"""MOON: a contrastive loss pulls features towards the received model's and away from the client's previous model's.

Li, He, Song: "Model-Contrastive Federated Learning", CVPR 2021, arXiv 2103.16257, equations 3 and 4; sim is the cosine:

    loss = task + μ · ℓ,   ℓ = −log( e^{sim(z, z_glob)/τ} / (e^{sim(z, z_glob)/τ} + e^{sim(z, z_prev)/τ}) )

The paper's projection head is left out: z are the pooled features. The local adapter holds the client's adapter from
its previous round; in the first round, it holds the received one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.config import AlgorithmConfig


class Moon(Algorithm):
    """The global adapter trains on task and contrast and travels (``algorithm.moon_mu``, ``moon_temperature``)."""

    name = "moon"
    reads = ("moon_mu", "moon_temperature")
    trains = ("global",)
    keeps = ("local",)
    routes = ("global",)
    logs = ("loss", "task", "contrast")
    reads_features = True
    hides_gradients = True

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """In a client's first round, use the received adapter as the previous one."""
        if context.previous is None:
            learner.copy("global", "local")

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind, and one forward with the received and with the last adapter."""
        return 3.0, 1.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step; logs ``loss`` and its parts ``task`` and ``contrast``."""
        with torch.no_grad():
            received, last = learner.features("anchor"), learner.features("local")
        features = learner.features("global")
        task = learner.task_loss(learner.logits(features))
        contrast = contrastive_loss(features, received, last, context.config.moon_temperature)
        loss = task + context.config.moon_mu * contrast
        learner.update(loss)
        return {"loss": loss.detach(), "task": task.detach(), "contrast": contrast.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep the trained adapter as the previous one for the next round."""
        learner.copy("global", "local")
        return {}


def contrastive_loss(features: Tensor, towards: Tensor, away: Tensor, temperature: float) -> Tensor:
    """Return ℓ, a scalar, mean over the rows of three tensors (N, d)."""
    near = F.cosine_similarity(features, towards, dim=-1)
    far = F.cosine_similarity(features, away, dim=-1)
    return F.softplus((far - near) / temperature).mean()
