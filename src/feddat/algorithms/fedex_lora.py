"""FedEx-LoRA: exact averages of low-rank updates; the residual that mean factors miss goes to the frozen weights.

Singhal, Ponkshe, Vepakomma: "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation
Models", ACL 2025, arXiv 2410.09432. The mean of the products is not the product of the means. After a round with
factors B_i, A_i and their means B̄, Ā, the weight of every site therefore becomes

    W ← W + scale · (mean(B_i · A_i) - B̄ · Ā)

and training continues from B̄ and Ā. The server's state is the sum of these residuals over the rounds. Clients receive
it unfactored, (out, in) for each site. The paper sends each round's residual in factored form; with the sum, a client
does not need any earlier round.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import LORA_A, LORA_B, Algorithm, RoundContext
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig


class Residuals(ServerPart):
    """The plain mean, and for each site the sum of its residuals over the rounds."""

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a residual of 0 for each site."""
        return {site: torch.zeros_like(product) for site, product in products(shared).items()}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the residuals."""
        return dict(state)

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the residuals, without which the average is not exact."""
        return dict(state)

    def folds(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one client's products."""
        return products(shared)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the residuals including this round's, and the mean."""
        of_means = products(gathered.shared)
        return {site: state[site] + gathered.extras[site] - of_means[site] for site in state}, gathered.shared


class FedExLora(Algorithm):
    """Both factors of the global adapter train on the task loss and travel; the server returns the residuals."""

    name = "fedex-lora"
    trains = ("global",)
    routes = ("global",)
    server = Residuals()
    kinds = ("lora",)
    needs = "a low-rank pair at every site"
    hides_gradients = True

    def shift(self, context: RoundContext) -> Mapping[str, Tensor]:
        """Return the received residuals."""
        return context.received


def products(shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return B · A, (out, in), for each site of a LoRA adapter with entries A (r, in) and B (out, r)."""
    pairs = ((key, key.replace(LORA_A, LORA_B)) for key in shared if LORA_A in key)
    return {a.partition(LORA_A)[0]: shared[b] @ shared[a] for a, b in pairs}
