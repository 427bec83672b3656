"""FedDAT-2 with one part changed, for an ablation (``algorithm.options.part``, a key of :data:`PARTS`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from feddat.adapters.base import ROUTES
from feddat.algorithms import Algorithm, Learner, RoundContext
from feddat.algorithms.base import MAIN_HEAD
from feddat.algorithms.feddat_2 import PERSONAL, FedDAT2, is_shared
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

#: Part -> the adapters of the personal route.
PARTS: dict[str, str | Mapping[str, float]] = {
    "none": PERSONAL,
    "one-head": PERSONAL,
    "apart": "local",
    "halves": {"local": 0.5, "global": 0.5},
    "frozen": PERSONAL,
    "no-turns": PERSONAL,
    "even": PERSONAL,
}


class Part(FedDAT2):
    """FedDAT-2 with one part changed."""

    name = "feddat-2-part"

    def __init__(self, part: str = "none") -> None:
        self.part = part
        self.personal = PARTS[part]

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the method with the part that the run's settings name.

        Raises:
            ConfigError: they name something else.
        """
        options = config.algorithm.options
        if unknown := options.keys() - {"part"}:
            raise ConfigError(f"algorithm.options: unknown {', '.join(sorted(unknown))}; feddat-2-part has only part")
        part = options.get("part", "none")
        if part not in PARTS:
            raise ConfigError(f"algorithm.options.part: expected one of {', '.join(PARTS)}, got {part!r}")
        return Part(part)

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the shared route's own head, unless both share one."""
        return {} if self.part == "one-head" else super().heads(config)

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step of FedDAT-2, with the part changed."""
        shared = is_shared(context) and self.part != "no-turns"
        head = self.heads(context.config).get("global", MAIN_HEAD) if shared else MAIN_HEAD
        loss = learner.task_loss(learner.logits(learner.features("global" if shared else self.personal), head))
        learner.update(loss, adapters=("local",) if self.part == "frozen" and not shared else None)
        return {"loss": loss.detach()}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Choose the mixture, unless it is half of each route."""
        if self.part != "even":
            super().prepare(learner, context)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on one route, or of the mixture."""
        return learner.answers(self.personal) if route == "personal" else super().answer(learner, route, context)

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the adapters of one route."""
        if route != "personal":
            return super().mixture(route, context)
        return ROUTES[self.personal] if isinstance(self.personal, str) else self.personal
