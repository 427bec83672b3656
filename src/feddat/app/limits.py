"""What a message may at most hold, checked before the first round; what a reply may at most claim, before it is used.

Limits of replies stop accidents (a client whose training ran away, a counter that overflowed) and the crudest
forgeries. They are no defence against a client that lies within them: that is what robust rules of aggregation are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import wire as wires
from feddat.app.held import IN_MEMORY
from feddat.app.judge import norm
from feddat.app.messages import Member, ReplyError, TrainReply
from feddat.config import ConfigError, ServerConfig, WireConfig

#: The largest magnitude of a number in an extra array: a gradient's are far below it.
MOST_EXTRA = 1e6
#: What a round with the mean takes of this process's memory, as a multiple of a message's arrays in fp32: the adapter,
#: what is sent out, sums in float64 (two), directions of updates.
COPIES = 5
#: What a reply takes while it comes, its bytes and its arrays; the replies that are held are there later.
COMING = 2
#: What each reply takes with any other rule, which needs all of them at once.
COPIES_OF_REPLY = 3
#: Bytes of arrays in fp32 from which memory is looked at.
_LARGE = 64 * 2**20


def check_message(
    arrays: Shapes, extras: Shapes, wire: WireConfig, server: ServerConfig, replies: int, free: int | None
) -> None:
    """Refuse a run whose messages would be too large.

    Args:
        arrays: shapes of the shared part.
        extras: shapes of the extra arrays.
        wire: how the shared part travels.
        server: with the limit, and the rule of aggregation.
        replies: number of clients that train in each round.
        free: bytes of memory that this process may still take; ``None``: unknown.

    Raises:
        ConfigError: says how large they are and what may be done.
    """
    others = sum(4 * math.prod(shape) for shape in extras.values())
    size = others + sum(dtype.itemsize * math.prod(shape) for dtype, shape in wires.layout(arrays, wire).values())
    smaller = "choose a smaller kind of adapter (adapter.peft) or fewer layers (adapter.layers)"
    if size > server.max_message * 2**20:
        narrower = {"fp32": "wire.format=bf16 halves that; ", "int8": ""}.get(
            wire.format, "wire.format=int8 halves that; "
        )
        raise ConfigError(
            f"server.max_message: {server.max_message} MiB, but what travels has {size / 2**20:.0f} MiB in "
            f"{wire.format}; {narrower}or {smaller}, or raise the limit"
        )
    plain = others + sum(4 * math.prod(shape) for shape in arrays.values())
    copies = COPIES + max(COMING, min(replies, IN_MEMORY // max(1, plain)))
    if server.rule != "mean":
        copies += COPIES_OF_REPLY * replies
    if free is not None and plain > _LARGE and copies * plain > free:
        raise ConfigError(
            f"memory: with messages of {plain / 2**20:.0f} MiB in fp32 a round takes up to "
            f"{copies * plain / 2**30:.1f} GiB here beside what trains, and {free / 2**30:.1f} GiB are free; {smaller}"
        )


@dataclass
class Limits:
    """The limits of one run.

    Attributes:
        max_update: the most that the L2 distance between an adapter and the one sent may be, as a multiple of the
            norm of the one sent, or of 1 where that is smaller.
        max_examples: the largest number of training examples.
        agreed: client -> the largest number of training examples that is agreed on.
    """

    max_update: float = 100.0
    max_examples: int = 10_000_000
    agreed: Mapping[str, int] = field(default_factory=dict)
    _sent: Mapping[str, Tensor] = field(default_factory=dict)
    _examples: dict[str, int] = field(default_factory=dict)

    def open(self, sent: Mapping[str, Tensor]) -> None:
        """Begin a round in which ``sent`` goes out."""
        self._sent = sent

    def check(self, member: Member, reply: TrainReply) -> None:
        """Check one train reply whose form is known to be right.

        Raises:
            ReplyError: it is over a limit, or says to have more examples than the client registered with, or another
                number than before: its training data does not change within a run, and the number may be its weight.
        """
        client = member.name
        if reply.shared and (far := self.too_far(reply.shared)):
            raise ReplyError(client, f"its adapter is {far} (server.max_update)")
        for key, value in reply.extras.items():
            if value.size and max(value.max(), -value.min()) > MOST_EXTRA:
                raise ReplyError(client, f"array {key} has values beyond {MOST_EXTRA:g}")
        if reply.examples is None:
            return
        limits = [(self.max_examples, "server.max_examples")]
        if client in self.agreed:
            limits.append((self.agreed[client], "server.agreed_examples"))
        if member.examples is not None:
            limits.append((member.examples, "what it registered with"))
        for most, what in limits:
            if reply.examples > most:
                raise ReplyError(client, f"says to have {reply.examples} examples, more than {most} ({what})")
        before = self._examples.setdefault(client, reply.examples)
        if reply.examples != before:
            raise ReplyError(client, f"says to have {reply.examples} examples, and {before} in an earlier round")

    def too_far(self, shared: Mapping[str, NDArray[np.float32]]) -> str | None:
        """Say how far an adapter is from the one sent, where that is over the limit."""
        sent = {key: value.numpy() for key, value in self._sent.items()}
        allowed = self.max_update * max(norm(sent), 1.0)
        moved = norm(shared, sent)
        return f"{moved:.3g} away from the one sent, more than {allowed:.3g}" if moved > allowed else None
