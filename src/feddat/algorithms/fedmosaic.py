"""FedMosaic: each client combines its own adapter with a frozen mean of all, weighed by the similarity of their tasks.

Seo, Kim, Lee, Choi, Tuytelaars: "Co-LoRA: Collaborative Model Personalization on Heterogeneous Multi-Modal Clients"
(FedMosaic), ICLR 2026, arXiv 2506.11024; its relevance-guided aggregation (RELA). L_i is client i's adapter, and g_i is
its task gradient, a running mean over the rounds:

    G_i = Σ_j w_ij · L_j,   w_ij = softmax_j( cos(g_i, g_j) / τ )
    h  += (1 − σ(b)) · L_i(h) + σ(b) · G_i(h)          L_i and b train, G_i is frozen

This version differs from the paper, or fills gaps in its description, as follows:

- The paper takes task gradients from the last layer of a small frozen model that all clients have. Here heads are
  personal, so g_i is the gradient of the task loss at the last adapter site. It is taken at the mean adapter that all
  clients receive in that round, on the first batch of a round and every 16th after it (the paper: every few
  iterations). It is sent whole; the paper adds noise and sends a random part. The running mean keeps half of its value
  at each update, and τ = 0.5.
- One gate b serves all sites (the paper has one at each layer). It starts at 0, which weighs both adapters equally.
- All clients share one architecture, so the paper's modules for different architectures are left out.
- A client that the server does not know gets the plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feddat.algorithms.base import Algorithm, Learner, RoundContext, need_equal_weights
from feddat.algorithms.server import Gathered, ServerPart, Shapes
from feddat.config import AlgorithmConfig, RunConfig

#: τ, and the share of its value that the running mean of gradients keeps at each update.
TEMPERATURE, KEPT = 0.5, 0.5
#: Batches from one gradient to the next.
EVERY = 16
#: Names of the client's own tensors; the gradient also travels with the adapter.
GATE, GRADIENT = "gate", "task_gradient"
#: Prefix of the keys of a client's own mean.
RELEVANT = "relevant."


class RelevantMeans(ServerPart):
    """The plain mean, and a mean of its own for each client."""

    apart = True

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the plain mean, for clients without a mean of their own."""
        return {key.removeprefix("all/"): value for key, value in state.items() if key.startswith("all/")}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends`."""
        return self.sends(state)

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return a client's own mean."""
        return {key: state.get(f"client/{client}/{key}", value) for key, value in self.sends(state).items()}

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends_to`."""
        return self.sends_to(state, client)

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the initial adapter as the plain mean."""
        return {f"all/{RELEVANT}{key}": value.clone() for key, value in shared.items()}

    def expects(self, shared: Mapping[str, Tensor]) -> Shapes:
        """Return the shape of a task gradient."""
        return {GRADIENT: tuple(shared[last_matrix(shared)].shape)}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new means and the plain mean; a client that did not reply keeps its previous mean."""
        new = dict(state) | {f"all/{RELEVANT}{key}": value.clone() for key, value in gathered.shared.items()}
        names = list(gathered.each)
        weights = relevance(torch.stack([gathered.each[name][GRADIENT].flatten() for name in names]))
        for name, row in zip(names, weights, strict=True):
            for key in shared:
                stacked = torch.stack([gathered.each[other][key] for other in names])
                new[f"client/{name}/{RELEVANT}{key}"] = torch.tensordot(row, stacked, dims=1)
        return new, gathered.shared


class FedMosaic(Algorithm):
    """The local adapter, the gate and the head train on the task loss; a copy of the adapter travels."""

    name = "fedmosaic"
    trains = ("local",)
    keeps = ("local",)
    routes = ("mixed",)
    sends = "local"
    logs = ("loss", "gate")
    local_from_global = True
    server = RelevantMeans()
    kinds = ("bottleneck", "lora")
    needs = "adapters whose outputs can be added up"

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm itself.

        Raises:
            ConfigError: ``server.weighting`` is not ``equal``; the clients' own means ignore other weights.
        """
        need_equal_weights(config)
        return self

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Load the client's own mean into the anchor; its first adapter is the received one, its gate half open."""
        _load_relevant(learner, context)
        if context.previous is None:
            learner.copy("global", "local")
            device = next(iter(learner.adapter("local").values())).device
            context.state[GATE] = torch.zeros((), device=device)
        learner.also_train([context.state[GATE].requires_grad_()])

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind, and another one on every 16th batch."""
        return 1.0 + 1.0 / EVERY, 1.0 + 1.0 / EVERY

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the local adapter, the gate and the head; logs the gate's opening, σ(b)."""
        if context.step % EVERY == 0:
            _renew_gradient(learner, context)
        loss = learner.task_loss(learner.logits(learner.features(_mixture(context))))
        learner.update(loss)
        return {"loss": loss.detach(), "gate": torch.sigmoid(context.state[GATE].detach())}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Send a copy of the local adapter and the task gradient."""
        learner.copy("local", "global")
        context.state[GATE] = context.state[GATE].detach()
        return {GRADIENT: context.state[GRADIENT]}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Load the client's current own mean into the anchor."""
        _load_relevant(learner, context)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on the mixture."""
        return learner.answers(_mixture(context))

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the weights that the gate has learned."""
        return {name: float(weight) for name, weight in _mixture(context).items()}


def relevance(gradients: Tensor) -> Tensor:
    """Return w, (K, K), for the task gradients (K, n) of K clients; row i holds the weights of client i's mean."""
    unit = functional.normalize(gradients, dim=1)
    return torch.softmax(unit @ unit.T / TEMPERATURE, dim=1)


def last_matrix(state: Mapping[str, Tensor]) -> str:
    """Return the key of an adapter's last matrix, the output matrix of its last site."""
    return [key for key, value in state.items() if value.ndim == 2][-1]


def _renew_gradient(learner: Learner, context: RoundContext) -> None:
    """Add the current batch's gradient at the received adapter to the running mean; no parameter moves."""
    received = learner.adapter("global")
    learner.backward(learner.task_loss(learner.logits(learner.features("global"))))
    found = received[last_matrix(received)].grad
    new = torch.zeros_like(received[last_matrix(received)]) if found is None else found.detach().clone()
    for parameter in received.values():
        parameter.grad = None
    old = context.state.get(GRADIENT)
    context.state[GRADIENT] = new if old is None else KEPT * old + (1 - KEPT) * new


@torch.no_grad()
def _load_relevant(learner: Learner, context: RoundContext) -> None:
    for key, value in learner.adapter("anchor").items():
        value.copy_(context.received[RELEVANT + key])


def _mixture(context: RoundContext) -> Mapping[str, Tensor]:
    opening = torch.sigmoid(context.state.get(GATE, torch.zeros(())))
    return {"local": 1 - opening, "anchor": opening}
