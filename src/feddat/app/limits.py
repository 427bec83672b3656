"""What a message may at most hold, checked before the first round; what a reply may at most claim, before it is used.

Limits of replies stop accidents (a client whose training ran away, a counter that overflowed) and the crudest
forgeries. They are no defence against a client that lies within them: that is what robust rules of aggregation are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import wire as wires
from feddat.app.messages import ReplyError, TrainReply
from feddat.config import ConfigError, ServerConfig, WireConfig

#: Numbers that are looked at together.
_BLOCK = 2**18
#: What a round with the mean takes of this process's memory, as a multiple of a message's arrays in fp32: the adapter,
#: what is sent out, sums in float64 (two), and what a client sends with its bytes (two).
COPIES = 6
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
    copies = COPIES if server.rule == "mean" else COPIES + COPIES_OF_REPLY * replies
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
    """

    max_update: float = 100.0
    max_examples: int = 10_000_000
    _sent: Mapping[str, Tensor] = field(default_factory=dict)
    _examples: dict[str, int] = field(default_factory=dict)

    def open(self, sent: Mapping[str, Tensor]) -> None:
        """Begin a round in which ``sent`` goes out."""
        self._sent = sent

    def check(self, client: str, reply: TrainReply) -> None:
        """Check one train reply whose form is known to be right.

        Raises:
            ReplyError: it is over a limit, or says to have another number of examples than before: a client's
                training data does not change within a run, and the number may be its weight.
        """
        if reply.shared:
            sent = {key: value.numpy() for key, value in self._sent.items()}
            allowed = self.max_update * max(_norm(sent), 1.0)
            moved = _norm(reply.shared, sent)
            if moved > allowed:
                reason = f"its adapter is {moved:.3g} away from the one sent, more than {allowed:.3g}"
                raise ReplyError(client, f"{reason} (server.max_update)")
        if reply.examples is None:
            return
        if reply.examples > self.max_examples:
            raise ReplyError(
                client, f"says to have {reply.examples} examples, more than {self.max_examples} (server.max_examples)"
            )
        before = self._examples.setdefault(client, reply.examples)
        if reply.examples != before:
            raise ReplyError(client, f"says to have {reply.examples} examples, and {before} in an earlier round")


def _norm(values: Mapping[str, NDArray[Any]], minus: Mapping[str, NDArray[Any]] | None = None) -> float:
    """Return the L2 norm of arrays, or of the differences of two sets, in float64: a block at a time."""
    squares = 0.0
    for key, value in values.items():
        flat = value.reshape(-1)
        other = None if minus is None else minus[key].reshape(-1)
        for begin in range(0, flat.size, _BLOCK):
            block = flat[begin : begin + _BLOCK].astype(np.float64)
            if other is not None:
                block -= other[begin : begin + _BLOCK]
            squares += float(block @ block)
    return math.sqrt(squares)
