"""FedDyn: a dynamic regulariser aligns the clients' optima with the federation's.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama: "Federated Learning Based on Dynamic Regularization", ICLR 2021,
arXiv 2111.04263, algorithm 1, where gᵢ is client i's last gradient, m the number of clients, and γ the mean of the θᵢ
that were sent in a round:

    client:  min task(θ) − ⟨gᵢ, θ⟩ + α/2 · ‖θ − θᵗ‖²,   then gᵢ ← gᵢ − α · (θᵢ − θᵗ)
    server:  h ← h − α/m · Σ_{i in S} (θᵢ − θᵗ),   θᵗ⁺¹ = γ − h/α

Clients train from θᵗ and answer with γ, the model that the paper's analysis (theorem 1) is about. With c = −h/α, the
server's step does not depend on α: c ← c + 1/m · Σ_{i in S} (θᵢ − θᵗ) and θᵗ⁺¹ = γ + c. Heads are personal and have no
regulariser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, need_equal_weights
from feddat.algorithms.proximal import squared_distance
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig, RunConfig

#: Prefix of c's entries, with the keys of the adapter.
AHEAD = "ahead."


class FedDynServer(ServerPart):
    """Keeps c, by which the adapter that clients train is ahead of the clients' mean."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return c = 0."""
        return {AHEAD + key: torch.zeros_like(value) for key, value in shared.items()}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return c."""
        return dict(state)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Add the round's drift, counted over all clients, to c, and put the adapter ahead of the mean by it."""
        share = gathered.replies / gathered.clients
        drift = {key: share * (gathered.shared[key] - value) for key, value in shared.items()}
        ahead = {AHEAD + key: state[AHEAD + key] + value for key, value in drift.items()}
        return ahead, {key: value + ahead[AHEAD + key] for key, value in gathered.shared.items()}


class FedDyn(Algorithm):
    """The global adapter trains on the regularised loss; each client keeps its gᵢ (``algorithm.feddyn_alpha``)."""

    name = "feddyn"
    reads = ("feddyn_alpha",)
    trains = ("global",)
    routes = ("global",)
    logs = ("loss", "task")
    logs_below_zero = True  # its regulariser has a linear part
    server = FedDynServer()

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> FedDyn:
        """Return the algorithm itself.

        Raises:
            ConfigError: ``server.weighting`` is not ``equal``; the sum of all gᵢ has to be the server's h.
        """
        need_equal_weights(config)
        return self

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

    @torch.no_grad()
    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Take c off the adapter, which leaves the mean of the clients' adapters."""
        for key, value in learner.adapter("global").items():
            value -= context.received[AHEAD + key]
