"""LoRA-FAIR: corrects the averaged factor B so that its product is closer to the average of the products.

Bian, Wang, Zhang, Xu: "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", ICCV
2025, arXiv 2411.14961. With factors B_i, A_i and their means B̄, Ā, the server computes a small ΔB such that
(B̄ + ΔB) · Ā is close to ΔW = mean(B_i · A_i). Clients continue from B̄ + ΔB and Ā, and no more travels than in FedAvg.

The paper leaves the measure of closeness open; it mentions the cosine, optimised by gradient steps. This version uses
the squared distance, which has a closed-form minimiser:

    ΔB = argmin ‖ΔW − (B̄ + ΔB) Ā‖² + λ ‖ΔB‖² = (ΔW − B̄Ā) Āᵀ (ĀĀᵀ + λI)⁻¹,   λ = 0.01

For a small λ, both give the same direction: the part of ΔW that the rows of Ā can express.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import LORA_A, LORA_B, Algorithm
from feddat.algorithms.fedex_lora import products
from feddat.algorithms.server import Gathered, ServerPart
from feddat.config import AlgorithmConfig

#: λ, the weight of the correction's size.
PENALTY = 0.01


class CorrectedMean(ServerPart):
    """The plain mean, with every factor B corrected."""

    def folds(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one client's products."""
        return products(shared)

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return an empty state and the corrected mean."""
        corrected = dict(gathered.shared)
        for key, a in gathered.shared.items():
            if LORA_A in key:
                b = key.replace(LORA_A, LORA_B)
                corrected[b] = corrected[b] + correction(gathered.extras[key.partition(LORA_A)[0]], corrected[b], a)
        return {}, corrected


class LoraFair(Algorithm):
    """Both factors of the global adapter train on the task loss and travel."""

    name = "lora-fair"
    trains = ("global",)
    routes = ("global",)
    server = CorrectedMean()
    kinds = ("lora",)
    needs = "a low-rank pair at every site"
    hides_gradients = True


def correction(product: Tensor, b: Tensor, a: Tensor, penalty: float = PENALTY) -> Tensor:
    """Return ΔB, (out, r), for the mean product (out, in) and the mean factors B (out, r) and A (r, in)."""
    gram = a @ a.T + penalty * torch.eye(len(a), dtype=a.dtype)
    missing = (product - b @ a) @ a.T
    solved: Tensor = torch.linalg.solve(gram, missing.T)
    return solved.T
