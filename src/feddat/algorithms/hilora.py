"""HiLoRA: one adapter for all clients, one for each cluster and one for each client, trained one after the other.

Peng, Zou, Zeng, Li, Chen, Li, Wang: "HiLoRA: Hierarchical Low-Rank Adaptation for Personalized Federated Learning",
CVPR 2026, arXiv 2603.02785. The root adapter trains first, as in FedAvg. Then the server clusters the clients by the
subspaces that their root updates span. Each cluster trains an adapter on top of the frozen root. Finally, each client
trains a leaf adapter on top of both. A penalty keeps the subspaces of the tiers apart:

    h += root(h) + cluster(h) + leaf(h)
    L = task + λ · Σ ‖B_aᵀ B_b‖²     over sites, B_a of the tier that trains, B_b of those below it

This version differs from the paper, or fills gaps in its description, as follows. Each tier has a third of the
rounds, and λ = 0.1. The eigengap of the normalised Laplacian sets the number of clusters, which is at most 3. In the
last third, the unchanged cluster adapter still travels; the paper avoids that. Bottlenecks are supported too; their
up-projections take the place of LoRA's B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext, need_equal_weights
from feddat.algorithms.clusters import by_eigengap, subspace_similarities, writers
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig, RunConfig

#: λ, and the largest number of clusters.
ORTHOGONALITY, MOST = 0.1, 3
#: Key of the number of finished rounds, shape (1,).
DONE = "done"
ROOT, CLUSTER = "root.", "cluster."


class Tiers(ServerPart):
    """The mean of the root in its rounds, then the mean adapter of each cluster."""

    apart = True

    def __init__(self, of_root: int) -> None:
        self._of_root = of_root

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the initial adapter as the root and as every cluster's adapter."""
        return {
            DONE: torch.zeros(1),
            **{f"all/{ROOT}{key}": value.clone() for key, value in shared.items()},
            **{f"all/{CLUSTER}{key}": value.clone() for key, value in shared.items()},
        }

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the root and the initial cluster adapter, for clients in no cluster."""
        return {key.removeprefix("all/"): value for key, value in state.items() if key.startswith("all/")}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends`."""
        return self.sends(state)

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the root and the adapter of the client's cluster."""
        if (own := state.get(f"of/{client}")) is None:
            return self.sends(state)
        prefix = f"{round(own.item())}/{CLUSTER}"
        return self.sends(state) | {
            CLUSTER + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
        }

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the same arrays as :meth:`sends_to`."""
        return self.sends_to(state, client)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new root while it trains, then each cluster's mean; the last root round sets the clusters."""
        new, names = dict(state), list(gathered.each)
        done = round(state[DONE].item()) + 1
        new[DONE] = torch.full((1,), float(done))
        if done <= self._of_root:
            new |= {f"all/{ROOT}{key}": value.clone() for key, value in gathered.shared.items()}
            if done == self._of_root:
                moved = [{k: gathered.each[n][k] - shared[k] for k in writers(shared)} for n in names]
                labels = by_eigengap(subspace_similarities(moved), MOST)
                for name, label in zip(names, labels, strict=True):
                    new[f"of/{name}"] = torch.full((1,), float(label))
                    new |= {f"{label}/{CLUSTER}{key}": state[f"all/{CLUSTER}{key}"].clone() for key in shared}
            return new, gathered.shared
        for label in {round(value.item()) for key, value in state.items() if key.startswith("of/")}:
            members = [name for name in names if round(new.get(f"of/{name}", torch.tensor(-1.0)).item()) == label]
            for key in shared if members else ():
                new[f"{label}/{CLUSTER}{key}"] = torch.stack([gathered.each[name][key] for name in members]).mean(dim=0)
        return new, {key.removeprefix(ROOT): v.clone() for key, v in self.sends(new).items() if key.startswith(ROOT)}


class HiLora(Algorithm):
    """Root and cluster adapter train one after the other as the global adapter, and travel; the leaf is local."""

    name = "hilora"
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("tiers", "global")
    logs = ("loss", "overlap")
    kinds = ("lora", "bottleneck")
    needs = "adapters whose outputs can be added up"

    def __init__(self, rounds: int = 3) -> None:
        self.server = Tiers(root_rounds(rounds))  # type: ignore[misc]  # of this run

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> HiLora:
        """Return the algorithm for the run's number of rounds; with fewer than three, the later tiers have no round.

        Raises:
            ConfigError: ``server.weighting`` is not ``equal``; the means of clusters have equal weights.
        """
        need_equal_weights(config)
        return HiLora(config.rounds)

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Load the root and the cluster adapter into their slots."""
        _load_tiers(learner, context, tier(context.round, context.rounds))

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the current tier and the head; logs the penalty as ``overlap``."""
        now = tier(context.round, context.rounds)
        moving = "local" if now == "leaf" else "global"
        below = {"root": (), "cluster": ("anchor",), "leaf": ("anchor", "global")}[now]
        task = learner.task_loss(learner.logits(learner.features(ON[now])))
        own = learner.adapter(moving)
        penalty = task.new_zeros(())
        for name in below:
            penalty = penalty + overlap(own, learner.adapter(name))
        loss = task + ORTHOGONALITY * penalty
        learner.update(loss, adapters=(moving,))
        return {"loss": loss.detach(), "overlap": penalty.detach()}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Load the root and the cluster adapter into their slots, in the state after the last finished round."""
        _load_tiers(learner, context, tier(context.round - 1, context.rounds))

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on all tiers that have trained, or on route ``global`` only on the root."""
        now = tier(context.round - 1, context.rounds)
        if route == "global":
            return learner.answers("global" if now == "root" else "anchor")
        return learner.answers(ON[now])

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the weight of each adapter in the sum."""
        now = tier(context.round - 1, context.rounds)
        if route == "global":
            return ON["root"] if now == "root" else {"anchor": 1.0}
        return ON[now]


#: Tier that trains -> the weight of each adapter then. The root is the global adapter while it trains, then the anchor.
ON: dict[str, dict[str, float]] = {
    "root": {"global": 1.0},
    "cluster": {"anchor": 1.0, "global": 1.0},
    "leaf": {"anchor": 1.0, "global": 1.0, "local": 1.0},
}


def root_rounds(rounds: int) -> int:
    """Return the number of rounds in which the root trains."""
    return math.ceil(rounds / 3)


def tier(round: int, rounds: int) -> str:
    """Return the tier that trains in a round (1-based): ``root``, ``cluster`` or ``leaf``."""
    if round <= root_rounds(rounds):
        return "root"
    return "cluster" if round <= math.ceil(2 * rounds / 3) else "leaf"


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Return Σ ‖B_aᵀ B_b‖² over the sites of two adapters, a scalar; no gradient flows into the second."""
    parts = [(one[key].T @ other[key].detach()).square().sum() for key in writers(one)]
    return torch.stack(parts).sum()


@torch.no_grad()
def _load_tiers(learner: Learner, context: RoundContext, now: str) -> None:
    if now == "root":
        return
    for name, prefix in (("anchor", ROOT), ("global", CLUSTER)):
        for key, value in learner.adapter(name).items():
            value.copy_(context.received[prefix + key])
