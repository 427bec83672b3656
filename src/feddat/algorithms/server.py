"""What an algorithm may do on the server beside the mean: state of its own, and arrays that travel with the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from feddat.config import AlgorithmConfig

#: Shape of every tensor of a set, by key.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the replies of one round come to; every mean has the weights of ``server.weighting``.

    Attributes:
        shared: mean of the clients' adapters, as far as they travel.
        extras: mean of their extra arrays, and of :meth:`ServerPart.folds`.
        replies: number of clients whose reply was used.
        clients: number of all clients.
    """

    shared: dict[str, Tensor]
    extras: dict[str, Tensor]
    replies: int
    clients: int


class ServerPart:
    """The server's side of one algorithm; the defaults are the plain mean.

    State is a dictionary of float32 CPU tensors, kept in the server's checkpoints. Tensors that methods are given may
    share memory with messages: they are not to be written to.
    """

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state before the first round, given the initial shared part of the adapter."""
        return {}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the extra arrays that go to every client with the adapter when it is to train.

        Keys and shapes are those of ``sends(start(shared))`` in every round: clients check them.
        """
        return {}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the extra arrays that go to every client when it is to answer; checked as those of :meth:`sends`."""
        return {}

    def expects(self, shared: Mapping[str, Tensor]) -> Shapes:
        """Return the shapes of the extra arrays of every reply, given the shared part."""
        return {}

    def folds(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return further arrays to be averaged, computed from one reply's shared part."""
        return {}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new state and the new shared part.

        Args:
            state: before the round.
            shared: what was sent out in this round.
            gathered: what came back.
            config: the algorithm's settings.
        """
        return dict(state), gathered.shared
