"""FFA-LoRA: of each low-rank pair, A stays as it was drawn, the same everywhere; B trains and is shared.

Sun, Li, Li, Ding: "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313: with one
fixed A the mean of the products B·A is the product of the means, and half as much travels.
"""

from __future__ import annotations

from torch import Tensor

from feddat.algorithms.base import LORA_A, Algorithm, Learner, RoundContext, task_step


class FFALora(Algorithm):
    """The factors B of the global adapter, and whatever is no factor, train on the task loss and travel."""

    name = "ffa-lora"
    trains = ("global",)
    routes = ("global",)
    kinds = ("lora",)
    needs = "a low-rank pair at every site"

    def shares(self, key: str) -> bool:
        """Return whether an entry is no factor A."""
        return LORA_A not in key

    def trains_key(self, key: str) -> bool:
        """Return whether an entry is no factor A."""
        return LORA_A not in key

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the task loss."""
        return task_step(learner, "global")
