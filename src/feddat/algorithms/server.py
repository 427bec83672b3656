"""What an algorithm may do on the server beside the mean: state of its own, and arrays that travel with the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

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
        each: client -> what it sent, its part of the adapter and its extra arrays together; empty unless
            :attr:`ServerPart.apart`.
    """

    shared: dict[str, Tensor]
    extras: dict[str, Tensor]
    replies: int
    clients: int
    each: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class ServerPart:
    """The server's side of one algorithm; the defaults are the plain mean.

    State is a dictionary of float32 CPU tensors, kept in the server's checkpoints. Tensors that methods are given may
    share memory with messages: they are not to be written to.

    Attributes:
        apart: whether the server looks at each client's reply by itself, and sends clients arrays of their own. Such a
            method cannot go with sums of which nobody sees the parts.
    """

    apart: ClassVar[bool] = False

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

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return :meth:`sends` for one client, with :attr:`apart`: the same keys and shapes for every one."""
        return self.sends(state)

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return :meth:`answers` for one client, as :meth:`sends_to` does; what an unknown client gets, a new one."""
        return self.answers(state)

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


def needs_each(part: ServerPart | None) -> bool:
    """Return whether a server part needs each client's reply by itself, or arrays beside its adapter.

    Where it does not, all that it sees of the clients is the mean of their adapters.
    """
    if part is None:
        return False
    own = type(part)
    return own.apart or own.expects is not ServerPart.expects or own.folds is not ServerPart.folds
