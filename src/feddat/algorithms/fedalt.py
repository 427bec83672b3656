"""FedALT: a mixer combines each client's own adapter with a frozen rest-of-world adapter, the mean of all others.

Bian, Wang, Zhang, Xu: "FedALT: Federated Fine-Tuning through Adaptive Local Training with Rest-of-World LoRA", AAAI
2026, arXiv 2503.11880. No client starts from an average: each continues with its own adapter. A learned, personal mixer
weighs the two adapters for every input. The paper has a mixer at each layer. Here, the mixer is one linear layer with
softmax on the frozen model's features, and its two weights apply at every site.

The server sends the mean of all adapters to every client, and each client subtracts its own part. The server therefore
needs to see only a sum, and the rest-of-world adapter is exact for any set of participants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, received_count
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

#: The extra array that comes with the mean: the number of adapters in it, shape (1,).
REPLIES = "replies"
#: The largest such number that float32 holds exactly, with all below it.
MOST_REPLIES = 2**24
#: The mixer's weight (2, d) and bias (2,), in the order of :data:`MIXED`.
WEIGHT, BIAS = "mixer.weight", "mixer.bias"
MIXED = ("local", "anchor")


class CountedMean(ServerPart):
    """The plain mean, and the number of adapters in it."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return 0 as the number of adapters in the first shared part."""
        return {REPLIES: torch.zeros(1)}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the number of adapters in the mean."""
        return dict(state)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new number, and the mean."""
        return {REPLIES: torch.full((1,), float(gathered.replies))}, gathered.shared


class FedALT(Algorithm):
    """The local adapter and the mixer train on the task loss; a copy of the adapter travels.

    The anchor holds the rest-of-world adapter.
    """

    name = "fedalt"
    trains = ("local",)
    keeps = MIXED
    routes = ("mixed",)
    sends = "local"
    reads_features = True
    local_from_global = True
    server = CountedMean()
    hides_gradients = True

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm itself.

        Raises:
            ConfigError: a client could not subtract its own part from the mean, or would lose the rest-of-world
                adapter.
        """
        if config.server.weighting != "equal":
            raise ConfigError("server.weighting: fedalt subtracts a client's part from the mean; expected equal")
        if config.eval.anchor != "trained":
            raise ConfigError("eval.anchor: fedalt keeps the rest-of-world adapter in the anchor; expected trained")
        return self

    @torch.no_grad()
    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Load the rest-of-world adapter into the anchor; a client's first adapter is the received one."""
        received, own, rest = (learner.adapter(name) for name in ("global", "local", "anchor"))
        replies = received_count(context, REPLIES, MOST_REPLIES)
        included = context.previous == context.round - 1
        for key, value in rest.items():
            value.copy_(rest_of_world(received[key], own[key] if included else None, replies))
        if context.previous is None:
            learner.copy("global", "local")

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind, and one forward through the frozen model for its features."""
        return 2.0, 1.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the local adapter, the mixer and the head."""
        with torch.no_grad():
            features = learner.features("none")
        if context.step == 0:
            start = {WEIGHT: features.new_zeros(2, features.shape[1]), BIAS: features.new_zeros(2)}
            context.state = {name: tensor.requires_grad_() for name, tensor in (start | context.state).items()}
            learner.also_train(context.state.values())
        loss = learner.task_loss(_mixed_logits(learner, features, context))
        learner.update(loss)
        return {"loss": loss.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Send a copy of the local adapter."""
        learner.copy("local", "global")
        return {}

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the logits of the mixture."""
        return _mixed_logits(learner, learner.features("none"), context)


def rest_of_world(mean: Tensor, own: Tensor | None, replies: int) -> Tensor:
    """Return the mean of the other clients' adapters, or 0 if there are none.

    Args:
        mean: the mean of ``replies`` adapters.
        own: the client's own adapter, if the mean includes it; else ``None``.
        replies: number of adapters in the mean.
    """
    others = replies - (own is not None)
    if others < 1:
        return torch.zeros_like(mean)
    return mean if own is None else (replies * mean - own) / others


def _mixed_logits(learner: Learner, features: Tensor, context: RoundContext) -> Tensor:
    """Return logits with both adapters, weighed by the mixer for ``features`` (N, d); equally before the first step."""
    weights = features.new_full((len(features), 2), 0.5)
    if context.state:
        weights = torch.softmax(features @ context.state[WEIGHT].T + context.state[BIAS], dim=1)
    route = {name: weight.view(-1, 1, 1) for name, weight in zip(MIXED, weights.unbind(dim=1), strict=True)}
    return learner.logits(learner.features(route))
