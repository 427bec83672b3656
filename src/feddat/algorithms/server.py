"""The server's part of an algorithm: its own state, extra arrays that travel with the adapter, and aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from torch import Tensor

from feddat.config import AlgorithmConfig

#: Shapes of a set of tensors by key.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The aggregated replies of one round; all means use the weights of ``server.weighting``.

    Attributes:
        shared: mean of the shared entries of the clients' adapters.
        extras: mean of their extra arrays and of the arrays from :meth:`ServerPart.folds`.
        replies: number of clients with a used reply.
        clients: number of all clients.
        each: client -> its reply, with shared entries and extra arrays together; empty unless
            :attr:`ServerPart.apart`.
    """

    shared: dict[str, Tensor]
    extras: dict[str, Tensor]
    replies: int
    clients: int
    each: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class ServerPart:
    """The server's side of one algorithm; the defaults compute the plain mean.

    The state is a dictionary of float32 CPU tensors, kept in the server's checkpoints. Tensors passed to the methods
    can share memory with messages and must not be written to.

    Attributes:
        apart: whether the server reads each client's reply separately and sends each client its own arrays. Such an
            algorithm cannot be combined with secure aggregation.
    """

    apart: ClassVar[bool] = False

    def start(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state before the first round, given the initial shared entries of the adapter."""
        return {}

    def sends(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the extra arrays that go with the adapter to every client that is to train.

        Clients check that keys and shapes match those of ``sends(start(shared))`` in every round.
        """
        return {}

    def answers(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the extra arrays that go to every client that is to answer; checked like those of :meth:`sends`."""
        return {}

    def sends_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return :meth:`sends` for one client, if :attr:`apart` is set; all clients get the same keys and shapes."""
        return self.sends(state)

    def answers_to(self, state: Mapping[str, Tensor], client: str) -> dict[str, Tensor]:
        """Return :meth:`answers` for one client, like :meth:`sends_to`; new clients get the arrays of unknown ones."""
        return self.answers(state)

    def expects(self, shared: Mapping[str, Tensor]) -> Shapes:
        """Return the shapes of the extra arrays in every reply, given the shared entries."""
        return {}

    def folds(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return further arrays to average, computed from the shared entries of one reply."""
        return {}

    def finish(
        self, state: Mapping[str, Tensor], shared: Mapping[str, Tensor], gathered: Gathered, config: AlgorithmConfig
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the new state and the new shared entries.

        Args:
            state: the state before the round.
            shared: the shared entries sent out in this round.
            gathered: the aggregated replies.
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
