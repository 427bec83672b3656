"""FedDyn: a dynamic regulariser aligns the clients' optima with the federation's.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama: "Federated Learning Based on Dynamic Regularization", ICLR 2021,
arXiv 2111.04263, algorithm 1, where gᵢ is client i's last gradient and m is the number of clients:

    client:  min task(θ) − ⟨gᵢ, θ⟩ + α/2 · ‖θ − θᵗ‖²,   then gᵢ ← gᵢ − α · (θᵢ − θᵗ)
    server:  h ← h − α/m · Σ_{i in S} (θᵢ − θᵗ),   θᵗ⁺¹ = mean(θᵢ) − h/α
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.proximal import squared_distance
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig


class FedDynServer(ServerPart):
    """Keeps h; only the adapter travels."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return h = 0."""
        return {key: torch.zeros_like(value) for key, value in shared.items()}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Move h by the clients' mean drift, and the adapter away from the mean by h/α."""
        alpha, share = config.feddyn_alpha, gathered.replies / gathered.clients
        h = {key: value - alpha * share * (gathered.shared[key] - shared[key]) for key, value in state.items()}
        return h, {key: value - h[key] / alpha for key, value in gathered.shared.items()}


class FedDyn(Algorithm):
    """The global adapter trains on the regularised loss; each client keeps its gᵢ (``algorithm.feddyn_alpha``)."""

    name = "feddyn"
    trains = ("global",)
    routes = ("global",)
    logs = ("loss", "task")
    logs_below_zero = True  # its regulariser has a linear part
    server = FedDynServer()

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Start with gᵢ = 0 in a client's first round."""
        for key, value in learner.adapter("global").items():
            context.state.setdefault(key, torch.zeros_like(value))

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the regularised loss; logs ``loss`` and its part ``task``."""
        task = learner.task_loss(learner.logits(learner.features("global")))
        adapter = learner.adapter("global")
        linear = torch.stack([(context.state[key] * value).sum() for key, value in adapter.items()]).sum()
        distance = squared_distance(adapter, learner.adapter("anchor"))
        loss = task - linear + 0.5 * context.config.feddyn_alpha * distance
        learner.update(loss)
        return {"loss": loss.detach(), "task": task.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep the new gᵢ."""
        received = learner.adapter("anchor")
        for key, value in learner.adapter("global").items():
            drift = value.detach() - received[key].detach()
            context.state[key] = context.state[key] - context.config.feddyn_alpha * drift
        return {}
