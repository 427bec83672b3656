"""HiLoRA: one adapter for all, one for each cluster of clients, one for each client, trained one after the other.

Peng, Zou, Zeng, Li, Chen, Li, Wang: "HiLoRA: Hierarchical Low-Rank Adaptation for Personalized Federated Learning",
CVPR 2026, arXiv 2603.02785. The root trains first, as in FedAvg. Then clients come into clusters by the subspaces that
their root updates span; each cluster trains an adapter on top of the root, which rests. In the end each client trains a
leaf on top of both. A penalty keeps the tiers' subspaces apart:

    h += root(h) + cluster(h) + leaf(h)
    L = task + λ · Σ ‖B_aᵀ B_b‖²     over sites, B_a of the tier that trains, B_b of those below it

What is another here, or chosen because the descriptions at hand leave it open: each tier has a third of the rounds;
λ = 0.1; the number of clusters comes from the eigengap of the normalised Laplacian, and is 3 at most; in the last third
the unchanged cluster adapter goes on travelling, which the paper spares itself. Bottlenecks are taken too; their
up-projections are what B is to LoRA.
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

#: λ, and the most clusters.
ORTHOGONALITY, MOST = 0.1, 3
#: Rounds done, shape (1,).
DONE = "done"
ROOT, CLUSTER = "root.", "cluster."


class Tiers(ServerPart):
    """The root for so many rounds, then an adapter for each cluster."""

    apart = True

    def __init__(self, of_root: int) -> None:
        self._of_root = of_root

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the first adapter as the root and as every cluster's."""
        return {
            DONE: torch.zeros(1),
            **{f"all/{ROOT}{key}": value.clone() for key, value in shared.items()},
            **{f"all/{CLUSTER}{key}": value.clone() for key, value in shared.items()},
        }

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a client in no cluster gets: the root, and a cluster adapter as it begins."""
        return {key.removeprefix("all/"): value for key, value in state.items() if key.startswith("all/")}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the same."""
        return self.sends(state)

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the root, and the adapter of a client's cluster."""
        if (own := state.get(f"of/{client}")) is None:
            return self.sends(state)
        prefix = f"{round(own.item())}/{CLUSTER}"
        return self.sends(state) | {
            CLUSTER + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
        }

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return the same."""
        return self.sends_to(state, client)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the root's mean while it trains, with the clusters when it is done; then each cluster's mean."""
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
    """Root and cluster adapter train as the global one, one after the other, and travel; the leaf is the local one."""

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
        """Return the method for so many rounds; of fewer than three, the later tiers get none.

        Raises:
            ConfigError: clients are to be weighed, which the means of clusters do not.
        """
        need_equal_weights(config)
        return HiLora(config.rounds)

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Put root and cluster adapter into their places."""
        _load_tiers(learner, context, tier(context.round, context.rounds))

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of the tier whose turn it is, and the head; logs the penalty as ``overlap``."""
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
        """Put root and cluster adapter into their places; what is answered is the state after the round before."""
        _load_tiers(learner, context, tier(context.round - 1, context.rounds))

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on all tiers that have trained, or on the root alone."""
        now = tier(context.round - 1, context.rounds)
        if route == "global":
            return learner.answers("global" if now == "root" else "anchor")
        return learner.answers(ON[now])

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return which adapters add up."""
        now = tier(context.round - 1, context.rounds)
        return ON["root" if route == "global" and now == "root" else now] if route == "tiers" else {"anchor": 1.0}


#: Tier that trains -> the weight of each adapter then. The root is the global adapter while it trains, then the anchor.
ON: dict[str, dict[str, float]] = {
    "root": {"global": 1.0},
    "cluster": {"anchor": 1.0, "global": 1.0},
    "leaf": {"anchor": 1.0, "global": 1.0, "local": 1.0},
}


def root_rounds(rounds: int) -> int:
    """Return how many of the rounds are the root's."""
    return math.ceil(rounds / 3)


def tier(round: int, rounds: int) -> str:
    """Return which tier trains in a round, 1-based: ``root``, ``cluster`` or ``leaf``."""
    if round <= root_rounds(rounds):
        return "root"
    return "cluster" if round <= math.ceil(2 * rounds / 3) else "leaf"


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Return Σ ‖B_aᵀ B_b‖² over the sites of two adapters; no gradient flows into the second."""
    parts = [(one[key].T @ other[key].detach()).square().sum() for key in writers(one)]
    return torch.stack(parts).sum()


@torch.no_grad()
def _load_tiers(learner: Learner, context: RoundContext, now: str) -> None:
    if now == "root":
        return
    for name, prefix in (("anchor", ROOT), ("global", CLUSTER)):
        for key, value in learner.adapter(name).items():
            value.copy_(context.received[prefix + key])
