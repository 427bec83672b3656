"""FedAvg with flat clipping: clients shorten long updates, so that none can move the global adapter far in one round.

McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018,
arXiv 1710.06963, section 2 (flat clipping). If w is the received adapter and local training added Δ, the client keeps

    w + Δ · min(1, S / ‖Δ‖)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.algorithms import Algorithm, Learner, RoundContext
from feddat.config import ConfigError, RunConfig


class Clipped(Algorithm):
    """Trains and sends the global adapter; its update is no longer than ``algorithm.options.norm`` (default 1)."""

    name = "clipped"
    trains = ("global",)
    routes = ("global",)
    hides_gradients = True

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Check the settings.

        Raises:
            ConfigError: an option is unknown, or the norm is not a number above 0.
        """
        options = config.algorithm.options
        if unknown := options.keys() - {"norm"}:
            raise ConfigError(f"algorithm.options: unknown {', '.join(sorted(unknown))}; method clipped has only norm")
        norm = options.get("norm", 1.0)
        if not isinstance(norm, (int, float)) or norm <= 0:
            raise ConfigError(f"algorithm.options.norm: expected a number above 0, got {norm!r}")
        return self

    @torch.no_grad()
    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Shorten the update, in place."""
        trained, received = learner.adapter("global"), learner.adapter("anchor")
        moves = {key: trained[key] - received[key] for key in trained}
        length = torch.linalg.vector_norm(torch.stack([move.norm() for move in moves.values()]))
        share = torch.clamp(context.config.options.get("norm", 1.0) / length, max=1.0)
        for key, move in moves.items():
            trained[key].copy_(received[key] + share * move)
        return {}
