"""SCAFFOLD: control variates correct each client's gradients for its drift away from the other clients.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378, algorithm 1:

    y ← y − η · (g(y) − cᵢ + c)              local steps on the adapter
    cᵢ⁺ = mean of g(y) over the round's steps
    x ← x + η_g · mean(yᵢ − x),   c ← c + |S|/N · mean(cᵢ⁺ − cᵢ)

The paper's option II, cᵢ⁺ = cᵢ − c + (x − yᵢ) / (K·η), equals this mean if plain SGD moves y at a constant learning
rate. Here AdamW moves y, so the distance covered says little about the gradients. This version therefore takes the mean
of the gradients themselves, before correction and clipping. Heads are personal and are not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.server import Gathered, ServerPart, Shapes
from feddat.config import AlgorithmConfig


class ScaffoldServer(ServerPart):
    """Keeps the mean control variate c, with the adapter's keys and shapes."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return c = 0."""
        return {key: torch.zeros_like(value) for key, value in shared.items()}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return c."""
        return dict(state)

    def expects(self, shared: Mapping[str, Tensor]) -> Shapes:
        """Return the shapes of cᵢ⁺ − cᵢ."""
        return {key: tuple(value.shape) for key, value in shared.items()}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scale the step of c by the share of participating clients, and the adapter's by ``algorithm.scaffold_lr``."""
        share = gathered.replies / gathered.clients
        control = {key: value + share * gathered.extras[key] for key, value in state.items()}
        moved = {key: torch.lerp(value, gathered.shared[key], config.scaffold_lr) for key, value in shared.items()}
        return control, moved


class Scaffold(Algorithm):
    """The global adapter trains on corrected gradients; each client keeps its own control variate cᵢ."""

    name = "scaffold"
    reads = ("scaffold_lr",)
    trains = ("global",)
    routes = ("global",)
    server = ScaffoldServer()

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Start with cᵢ = 0 in a client's first round."""
        for key, value in learner.adapter("global").items():
            context.state.setdefault(key, torch.zeros_like(value))
            context.scratch[key] = torch.zeros_like(value)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss with c − cᵢ added to the adapter's gradient."""
        loss = learner.task_loss(learner.logits(learner.features("global")))
        learner.backward(loss)
        for key, value in learner.adapter("global").items():
            if value.grad is not None:
                context.scratch[key] += value.grad
                value.grad += context.received[key] - context.state[key]
        learner.step()
        return {"loss": loss.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep the new cᵢ and send its change."""
        change = {}
        for key, old in context.state.items():
            context.state[key] = context.scratch[key] / context.steps
            change[key] = context.state[key] - old
        return change
