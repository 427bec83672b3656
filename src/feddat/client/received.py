"""The state that a client answers from, as far as the server sent it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Received:
    """The server's state after a round, as one client receives it.

    Attributes:
        shared: the global adapter aggregated in ``round``; ``None`` for an algorithm that does not communicate.
        round: the last trained round; 0 before training.
        final: whether this is the state after the run's last round.
        extras: the extra arrays that came with the adapter.
    """

    shared: dict[str, Tensor] | None
    round: int
    final: bool = False
    extras: Mapping[str, Tensor] | None = None
