"""APFL: each client mixes a shared and a personal adapter in a proportion that it learns.

Deng, Kamani, Mahdavi: "Adaptive Personalized Federated Learning", arXiv 2003.13461, algorithm 1,
with v̄ = α·v + (1−α)·w:

    w ← w − η · ∇task(w)            travels
    v ← v − η · ∇ᵥ task(v̄)          stays
    α ← α − η · ∂task(v̄)/∂α         stays, within [0, 1]

The paper mixes the weights of two models. This version mixes the outputs of two adapters at every site, which is
equivalent for everything that is linear in them. The round's optimizer moves α, as it moves the adapters. v and α see w
after its step; in the paper, before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext, separate_heads
from feddat.config import AlgorithmConfig


class Apfl(Algorithm):
    """Both adapters train on every batch, one after the other (``algorithm.apfl_alpha``, ``apfl_learned``)."""

    name = "apfl"
    reads = ("heads", "apfl_alpha", "apfl_learned")
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("mixed", "local", "global")
    logs = ("loss", "task_global", "task_mixture", "alpha")
    local_from_global = True
    hides_gradients = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the global route's own head if ``algorithm.heads`` asks for it."""
        return separate_heads(config)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores of the mixture, or of only one adapter."""
        if route != "mixed":
            return super().answer(learner, route, context)
        return learner.answers(_mixture(context))

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the learned proportion on route ``mixed``."""
        if route != "mixed":
            return super().mixture(route, context)
        return {name: float(weight) for name, weight in _mixture(context).items()}

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Start the personal adapter from the first received one, and α from ``algorithm.apfl_alpha``."""
        if context.previous is None:
            learner.copy("global", "local")
            device = next(iter(learner.adapter("local").values())).device
            context.state["alpha"] = torch.tensor(context.config.apfl_alpha, device=device)
        if context.config.apfl_learned:
            learner.also_train([context.state["alpha"].requires_grad_()])

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one pass of each kind with the global adapter and with the mixture."""
        return 2.0, 2.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step for w, and one for v and α.

        Returns:
            ``loss`` (the sum of both), its parts ``task_global`` and ``task_mixture``, and ``alpha``.
        """
        head = self.heads(context.config).get("global", MAIN_HEAD)
        task_global = learner.task_loss(learner.logits(learner.features("global"), head))
        learner.update(task_global)

        task_mixture = learner.task_loss(learner.logits(learner.features(_mixture(context))))
        learner.update(task_mixture, adapters=("local",))
        alpha = context.state["alpha"].detach()
        alpha.clamp_(0.0, 1.0)
        return {
            "loss": (task_global + task_mixture).detach(),
            "task_global": task_global.detach(),
            "task_mixture": task_mixture.detach(),
            "alpha": alpha.clone(),
        }

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Keep the current α."""
        context.state["alpha"] = context.state["alpha"].detach()
        return {}


def _mixture(context: RoundContext) -> Mapping[str, Tensor]:
    alpha = context.state.get("alpha", torch.tensor(context.config.apfl_alpha))
    return {"local": alpha, "global": 1 - alpha}
