"""FedEx-LoRA: exact averages of low-rank updates; what the mean factors miss is added to the frozen weights.

Singhal, Ponkshe, Vepakomma: "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation
Models", ACL 2025, arXiv 2410.09432. The mean of the products is not the product of the means, so after a round with
factors B_i, A_i and their means B̄, Ā every site's weight gets

    W ← W + scale · (mean(B_i · A_i) - B̄ · Ā)

and training goes on from B̄ and Ā. The sum of these residuals over the rounds is the server's state, and goes to the
clients as it is, (out, in) for each site: unlike in the paper, which sends each round's in a factored form, a client
needs to have seen no earlier round.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import LORA_A, LORA_B, Algorithm, Learner, RoundContext, task_step
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig


class Residuals(ServerPart):
    """The plain mean, and by site the sum over the rounds of what it misses."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a residual of 0 for each site."""
        return {site: torch.zeros_like(product) for site, product in products(shared).items()}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the residuals."""
        return dict(state)

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the residuals: the average is exact only with them."""
        return dict(state)

    def folds(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one client's products."""
        return products(shared)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the residuals with this round's added, and the mean."""
        of_means = products(gathered.shared)
        return {site: state[site] + gathered.extras[site] - of_means[site] for site in state}, gathered.shared


class FedExLora(Algorithm):
    """Both factors of the global adapter train on the task loss and travel; residuals come back."""

    name = "fedex-lora"
    trains = ("global",)
    routes = ("global",)
    server = Residuals()
    kinds = ("lora",)
    needs = "a low-rank pair at every site"

    def shift(self, context: RoundContext) -> Mapping[str, Tensor]:
        """Return the residuals as received."""
        return context.received

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")


def products(shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return B · A, (out, in), for each site of a LoRA adapter with entries A (r, in) and B (out, r)."""
    pairs = ((key, key.replace(LORA_A, LORA_B)) for key in shared if LORA_A in key)
    return {a.partition(LORA_A)[0]: shared[b] @ shared[a] for a, b in pairs}
