"""FedLEASE: clusters of clients by their matrices B, one expert per cluster, and a router that selects the best M.

Wang, Bian, Zhang, Xu: "Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning", NeurIPS 2025, arXiv
2509.15087. In the first round, every client trains its own adapter. The server groups the clients into M clusters
(agglomerative, by the cosine of their B; the silhouette sets M). The mean adapter of a cluster is its expert. From then
on, a client trains its cluster's expert together with the frozen experts of the other clusters.

A router gives 2M − 1 logits: the first M all belong to the client's own expert, and each other expert has one. Only the
largest M values of their softmax count. The own expert is therefore always used, and each example decides how many
other experts are used.

This version differs from the paper, or fills gaps in its description, as follows:

- There are at most three experts, because a client's model holds three adapters. The paper's limit is a setting.
- The router reads the frozen model's pooled features, and its weights apply to all sites (the paper has a router at
  each layer). It stays with its client (the paper averages it within the cluster) and starts at 0.
- The weights that are kept are divided by their sum.
- A client receives its experts in the order in which it uses them, its own first.
- Bottlenecks are supported too; their up-projections take the place of LoRA's B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, need_equal_weights, received_count, task_step
from feddat.algorithms.clusters import by_silhouette, cosine_distances
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig, RunConfig

#: The adapter slots of a client's model that hold the experts, its own first; their number is the limit on M.
SLOTS = ("global", "local", "anchor")
#: Key of the number of experts, shape (1,); 0 in the first round.
COUNT = "experts"
#: Key of the router's weight, (2M − 1, d).
ROUTER = "router"


class Experts(ServerPart):
    """An expert for each cluster of clients, fixed after the first round."""

    apart = True

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the initial adapter as every expert."""
        return {COUNT: torch.zeros(1)} | {
            f"expert.{n}/{key}": value.clone() for n in range(len(SLOTS)) for key, value in shared.items()
        }

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the number of experts, and the experts in the server's order."""
        return {key: value for key, value in state.items() if not key.startswith("cluster/")}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends`."""
        return self.sends(state)

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the experts with a client's own first; a client in no cluster gets the server's order."""
        own = int(state.get(f"cluster/{client}", torch.zeros(1)).item())
        order = [own, *(n for n in range(len(SLOTS)) if n != own)]
        found = {COUNT: state[COUNT]}
        for place, n in enumerate(order):
            prefix = f"expert.{n}/"
            found |= {f"expert.{place}/{k.removeprefix(prefix)}": v for k, v in state.items() if k.startswith(prefix)}
        return found

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends_to`."""
        return self.sends_to(state, client)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new experts (each is the mean of its cluster's replies) and the plain mean of all replies."""
        new, names = dict(state), list(gathered.each)
        if state[COUNT].item() == 0:
            labels = by_silhouette(cosine_distances([gathered.each[name] for name in names]), len(SLOTS))
            new[COUNT] = torch.full((1,), float(max(labels) + 1))
            new |= {f"cluster/{n}": torch.full((1,), float(label)) for n, label in zip(names, labels, strict=True)}
        for n in range(round(new[COUNT].item())):
            members = [name for name in names if new.get(f"cluster/{name}", torch.zeros(1)).item() == n]
            for key in shared if members else ():
                new[f"expert.{n}/{key}"] = torch.stack([gathered.each[name][key] for name in members]).mean(dim=0)
        return new, gathered.shared


class FedLease(Algorithm):
    """The client's own expert (as the global adapter), the router and the head train on the task loss.

    The expert travels.
    """

    name = "fedlease"
    trains = ("global",)
    routes = ("mixed",)
    reads_features = True
    server = Experts()
    kinds = ("lora", "bottleneck")
    needs = "adapters whose outputs can be added up"
    hides_gradients = True

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm itself.

        Raises:
            ConfigError: ``server.weighting`` is not ``equal``; the means of clusters have equal weights.
        """
        need_equal_weights(config)
        return self

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Load the experts into their slots."""
        _load_experts(learner, context)

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind, and one forward through the frozen model for its features."""
        return 2.0, 1.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the own expert, the router and the head; with fewer than two experts, without a router."""
        count = _count(context)
        if count < 2:
            return task_step(learner, "global")
        with torch.no_grad():
            features = learner.features("none")
        if context.step == 0:
            router = context.state.get(ROUTER, features.new_zeros(2 * count - 1, features.shape[1]))
            context.state[ROUTER] = router.requires_grad_()
            learner.also_train([router])
        loss = learner.task_loss(learner.logits(learner.features(_route(features, count, context))))
        learner.update(loss, adapters=("global",))
        return {"loss": loss.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep the current router."""
        context.state = {key: value.detach() for key, value in context.state.items()}
        return {}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Load the experts into their slots."""
        _load_experts(learner, context)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores with the experts that the router selects."""
        count = _count(context)
        if count < 2:
            return learner.answers("global")
        return learner.answers(_route(learner.features("none"), count, context))


def expert_weights(logits: Tensor, count: int) -> Tensor:
    """Return the weight of each of M = ``count`` experts, (N, M), own expert first, for logits (N, 2M − 1)."""
    shares = torch.softmax(logits, dim=1)
    largest = torch.zeros_like(shares).scatter(1, shares.topk(count, dim=1).indices, 1.0)
    kept = shares * largest
    kept = kept / kept.sum(dim=1, keepdim=True)
    return torch.cat([kept[:, :count].sum(dim=1, keepdim=True), kept[:, count:]], dim=1)


def _count(context: RoundContext) -> int:
    """Return M.

    Raises:
        ValueError: the server sends more experts than there are slots, or another number than the router was made for.
    """
    count = received_count(context, COUNT, len(SLOTS)) if COUNT in context.received else 0
    router = context.state.get(ROUTER)
    if router is not None and len(router) != 2 * count - 1:
        raise ValueError(f"extra array {COUNT}: got {count}, expected {(len(router) + 1) // 2} as in earlier rounds")
    return count


def _route(features: Tensor, count: int, context: RoundContext) -> dict[str, Tensor]:
    router = context.state.get(ROUTER, features.new_zeros(2 * count - 1, features.shape[1]))
    weights = expert_weights(features @ router.to(features.dtype).T, count)
    return {name: weight.view(-1, 1, 1) for name, weight in zip(SLOTS, weights.unbind(dim=1), strict=False)}


@torch.no_grad()
def _load_experts(learner: Learner, context: RoundContext) -> None:
    for place, name in enumerate(SLOTS[: _count(context)]):
        for key, value in learner.adapter(name).items():
            value.copy_(context.received[f"expert.{place}/{key}"])
