"""FFA-LoRA: in each low-rank pair, A keeps its random initial value, the same everywhere; B trains and is shared.

Sun, Li, Li, Ding: "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313. With a single
fixed A, the mean of the products B·A equals the product of the means, and half as much data travels.
"""

from __future__ import annotations

from feddat.algorithms.base import LORA_A, Algorithm


class FFALora(Algorithm):
    """The factors B of the global adapter and all entries that are no factor train on the task loss and travel."""

    name = "ffa-lora"
    trains = ("global",)
    routes = ("global",)
    kinds = ("lora",)
    needs = "a low-rank pair at every site"
    hides_gradients = True

    def shares(self, key: str) -> bool:
        """Return whether an entry is not a factor A."""
        return LORA_A not in key

    def trains_key(self, key: str) -> bool:
        """Return whether an entry is not a factor A."""
        return LORA_A not in key
