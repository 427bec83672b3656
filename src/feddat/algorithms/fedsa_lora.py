"""FedSA-LoRA: in each low-rank pair, A is shared and B stays with its client.

Guo, Zeng, Wang, Fan, Wang, Qu: "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025,
arXiv 2410.01463. A learns what clients have in common; B learns what is specific to each client.
"""

from __future__ import annotations

from feddat.algorithms.base import LORA_B, Algorithm


class FedSALora(Algorithm):
    """Both factors of the global adapter train on the task loss; A and all entries that are no factor travel."""

    name = "fedsa-lora"
    trains = ("global",)
    routes = ("global",)
    kinds = ("lora",)
    needs = "a low-rank pair at every site"
    hides_gradients = True

    def shares(self, key: str) -> bool:
        """Return whether an entry is not a factor B."""
        return LORA_B not in key
