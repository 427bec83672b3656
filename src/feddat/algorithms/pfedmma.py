"""pFedMMA: adapters of three parts, down, across and up, of which the middle one alone is shared.

Ghiasvand, Alizadeh, Pedarsani: "pFedMMA: Personalized Federated Fine-Tuning with Multi-Modal Adapter for
Vision-Language Models", ICLR 2026, arXiv 2507.05394. The projection in the middle reads both modalities; all parts
train on the task loss, and the server averages the projection:

    A(h) = U · S · ReLU(D · h + b) + c        S and b travel, D, U and c stay

What is another here, or chosen because the descriptions at hand leave it open: the paper has adapters in the upper
layers of CLIP's two towers, one projection for both; here every layer's adapter has one of its own, which reads both
modalities where they are in one sequence (``adapter.layers`` says in how many layers adapters are). S begins as the
identity, has no activation after it, and takes the bias of the inner layer with it. The model holds the product U · S;
gradients of the factors follow from its own:
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

#: In the names of a bottleneck's entries: the bias of the inner layer.
INNER_BIAS = ".bottleneck_down.bias"
#: Before a site's name: its projection S, (r, r), that travels, and its matrix U, (d, r), that stays.
ACROSS, UP = "across.", "up."


class SharedProjections(ServerPart):
    """The mean of every site's projection, the identity at first."""

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
        """Return the mean projections, and the mean of what else travels."""
        return {key: gathered.extras[key] for key in state}, gathered.shared


class PFedMma(Algorithm):
    """The global adapter, with a projection in its middle, trains on the task loss; the projection travels."""

    name = "pfedmma"
    trains = ("global",)
    routes = ("global",)
    server = SharedProjections()
    kinds = ("bottleneck",)
    needs = "an inner layer at every site"

    def shares(self, key: str) -> bool:
        """Return whether an entry is an inner layer's bias; the projections travel beside it."""
        return key.endswith(INNER_BIAS)

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Take the projections as received, and the client's own U; its first is the one that all begin with."""
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
        """Take the projections as received; a client that has never trained has the U that all begin with."""
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
