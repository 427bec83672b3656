"""pFedMMA: adapters with three parts (down, across and up); only the middle part is shared.

Ghiasvand, Alizadeh, Pedarsani: "pFedMMA: Personalized Federated Fine-Tuning with Multi-Modal Adapter for
Vision-Language Models", ICLR 2026, arXiv 2507.05394. The projection in the middle reads both modalities; all parts
train on the task loss, and the server averages the projection:

    A(h) = U · S · ReLU(D · h + b) + c        S and b travel, D, U and c stay

This version differs from the paper, or fills gaps in its description, as follows. The paper has adapters in the upper
layers of CLIP's two towers, with one projection for both towers. Here, every layer's adapter has its own projection,
which reads both modalities if they are in one sequence (``adapter.layers`` sets the number of layers with adapters).
S starts as the identity, no activation follows it, and the bias of the inner layer travels with it.

The model holds the product U · S. The gradients of the factors follow from its gradient:
∂/∂U = ∂/∂(US) · Sᵀ and ∂/∂S = Uᵀ · ∂/∂(US).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.clusters import BOTTLENECK_UP
from feddat.algorithms.server import Gathered, ServerPart, Shapes
from feddat.config import AlgorithmConfig

#: End of the names of the inner layer's biases in a bottleneck.
INNER_BIAS = ".bottleneck_down.bias"
#: Prefixes of a site's name: its projection S, (r, r), which travels, and its matrix U, (d, r), which stays.
ACROSS, UP = "across.", "up."


class SharedProjections(ServerPart):
    """The mean of every site's projection, which starts as the identity."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return an identity for each site."""
        biases = {key: value for key, value in shared.items() if key.endswith(INNER_BIAS)}
        return {ACROSS + key.removesuffix(INNER_BIAS): torch.eye(len(value)) for key, value in biases.items()}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the projections."""
        return dict(state)

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the projections."""
        return dict(state)

    def expects(self, shared: Mapping[str, Tensor]) -> Shapes:
        """Return the shapes of the projections."""
        sizes = {key.removesuffix(INNER_BIAS): len(value) for key, value in shared.items() if key.endswith(INNER_BIAS)}
        return {ACROSS + site: (size, size) for site, size in sizes.items()}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the mean projections and the mean of everything else that travels."""
        return {key: gathered.extras[key] for key in state}, gathered.shared


class PFedMma(Algorithm):
    """The global adapter, with a projection in its middle, trains on the task loss; only the middle part travels."""

    name = "pfedmma"
    trains = ("global",)
    routes = ("global",)
    server = SharedProjections()
    trains_extras = True
    kinds = ("bottleneck",)
    needs = "an inner layer at every site"

    def shares(self, key: str) -> bool:
        """Return whether an entry is an inner layer's bias; the projections travel as extra arrays."""
        return key.endswith(INNER_BIAS)

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Load the received projections and the client's own U; its first U is the same for all clients."""
        for key, product in _products(learner).items():
            site = key.removesuffix(BOTTLENECK_UP)
            own = context.state.get(UP + site, product.detach().clone())
            context.state[UP + site] = own.requires_grad_()
            context.scratch[site] = context.received[ACROSS + site].detach().clone().requires_grad_()
        learner.also_train([*context.state.values(), *context.scratch.values()])
        _multiply(learner, context.state, context.scratch)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of all parts and the head."""
        loss = learner.task_loss(learner.logits(learner.features("global")))
        learner.backward(loss)
        for key, product in _products(learner).items():
            site = key.removesuffix(BOTTLENECK_UP)
            up, across = context.state[UP + site], context.scratch[site]
            up.grad = across.grad = None
            if product.grad is not None:
                up.grad, across.grad = product.grad @ across.detach().T, up.detach().T @ product.grad
                product.grad = None
        learner.step()
        _multiply(learner, context.state, context.scratch)
        return {"loss": loss.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep every U; let every projection travel."""
        context.state = {key: value.detach() for key, value in context.state.items()}
        return {ACROSS + site: across.detach() for site, across in context.scratch.items()}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Load the received projections and the client's own U; a client that has never trained uses the initial U."""
        received = {k.removeprefix(ACROSS): v for k, v in context.received.items() if k.startswith(ACROSS)}
        first = {UP + k.removesuffix(BOTTLENECK_UP): v.detach().clone() for k, v in _products(learner).items()}
        _multiply(learner, context.state or first, received)


def _products(learner: Learner) -> dict[str, Tensor]:
    return {key: value for key, value in learner.adapter("global").items() if key.endswith(BOTTLENECK_UP)}


@torch.no_grad()
def _multiply(learner: Learner, ups: Mapping[str, Tensor], across: Mapping[str, Tensor]) -> None:
    for key, product in _products(learner).items():
        site = key.removesuffix(BOTTLENECK_UP)
        product.copy_(ups[UP + site] @ across[site])
