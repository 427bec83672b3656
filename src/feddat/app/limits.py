"""Limits on the size of messages, checked before the first round, and on the values of each reply, checked before use.

Limits on replies stop accidents (training that diverged, a counter that overflowed) and the crudest forgeries. They are
no defence against a client that lies within the limits; robust aggregation rules are for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import wire as wires
from feddat.app.held import IN_MEMORY
from feddat.app.judge import as_arrays, norm
from feddat.app.messages import Member, ReplyError, TrainReply
from feddat.config import ConfigError, ServerConfig, WireConfig

#: The largest magnitude of a number in an extra array; gradients are far below it.
MOST_EXTRA = 1e6
#: Memory that a round with the mean needs, as a multiple of a message's arrays in fp32: the adapter, the copy sent out,
#: the sums in float64 (two), the directions of updates.
COPIES = 5
#: Memory of a reply while it arrives: its bytes and its arrays. At that time no replies are held yet.
COMING = 2
#: Memory of each reply with any other rule; such a rule needs all replies at once.
COPIES_OF_REPLY = 3
#: Size of a message's arrays in fp32, in bytes, from which memory is checked.
_LARGE = 64 * 2**20


def check_message(
    arrays: Shapes, extras: Shapes, wire: WireConfig, server: ServerConfig, replies: int, free: int | None
) -> None:
    """Refuse a run whose messages would be too large.

    Args:
        arrays: shapes of the shared part.
        extras: shapes of the extra arrays.
        wire: how the shared part travels.
        server: has the size limit and the aggregation rule.
        replies: number of clients that train in each round.
        free: bytes of memory that this process can still allocate; ``None``: unknown.

    Raises:
        ConfigError: says how large the messages are and what to change.
    """
    others = sum(4 * math.prod(shape) for shape in extras.values())
    size = others + sum(dtype.itemsize * math.prod(shape) for dtype, shape in wires.layout(arrays, wire).values())
    smaller = "choose a smaller kind of adapter (adapter.peft) or fewer layers (adapter.layers)"
    if size > server.max_message * 2**20:
        narrower = {"fp32": "wire.format=bf16 halves that; ", "int8": ""}.get(
            wire.format, "wire.format=int8 halves that; "
        )
        raise ConfigError(
            f"server.max_message: {server.max_message} MiB, but each message has {size / 2**20:.0f} MiB in "
            f"{wire.format}; {narrower}or {smaller}, or raise the limit"
        )
    plain = others + sum(4 * math.prod(shape) for shape in arrays.values())
    copies = COPIES + max(COMING, min(replies, IN_MEMORY // max(1, plain)))
    if server.rule != "mean":
        copies += COPIES_OF_REPLY * replies
    if free is not None and plain > _LARGE and copies * plain > free:
        raise ConfigError(
            f"memory: with messages of {plain / 2**20:.0f} MiB in fp32, a round needs up to "
            f"{copies * plain / 2**30:.1f} GiB here besides training, but {free / 2**30:.1f} GiB are free; {smaller}"
        )


@dataclass
class Limits:
    """The limits of one run.

    Attributes:
        max_update: the largest L2 distance between a returned adapter and the one sent, as a multiple of the norm of
            the one sent, or of 1 if that norm is smaller.
        max_examples: the largest number of training examples.
        agreed: client -> the largest number of training examples agreed on.
        clipped: the rule clips each update, or sees only their sum. The distance of a single adapter is then no reason
            to refuse a reply: with privacy of clients, one client's data would decide how many updates a mean has.
    """

    max_update: float = 100.0
    max_examples: int = 10_000_000
    agreed: Mapping[str, int] = field(default_factory=dict)
    clipped: bool = False
    _sent_norm: float = 0.0
    _examples: dict[str, int] = field(default_factory=dict)

    def open(self, sent: Mapping[str, Tensor]) -> None:
        """Begin a round in which the server sends out ``sent``."""
        self._sent_norm = norm(as_arrays(sent))

    def check(self, member: Member, reply: TrainReply, moved: float | None) -> None:
        """Check one train reply that is already known to be well-formed.

        Args:
            member: the member that sent it.
            reply: the reply.
            moved: L2 distance between the adapter in it and the one sent; ``None``: it has no adapter.

        Raises:
            ReplyError: it exceeds a limit, or claims more examples than the client registered with, or another number
                than before. A client's training data does not change within a run, and the number can be its weight.
        """
        client = member.name
        if moved is not None and not self.clipped and (far := self.too_far(moved)):
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
            limits.append((member.examples, "the number it registered with"))
        for most, what in limits:
            if reply.examples > most:
                raise ReplyError(client, f"claims {reply.examples} examples, more than {most} ({what})")
        before = self._examples.setdefault(client, reply.examples)
        if reply.examples != before:
            raise ReplyError(client, f"claims {reply.examples} examples, but {before} in an earlier round")

    def too_far(self, moved: float) -> str | None:
        """Return a description of how far an adapter is from the one sent if that exceeds the limit, else ``None``."""
        allowed = self.max_update * max(self._sent_norm, 1.0)
        return f"{moved:.3g} away from the one sent, more than {allowed:.3g}" if moved > allowed else None
