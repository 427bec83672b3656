"""Find the outliers among a round's replies: compare each with the others of the round before using any.

Norms of honest updates are close together. AdamW moves every number by about the learning rate, whatever the data and
the loss; clients differ in how many steps they take. On the mini suite, an adapter moves by 0.013, 0.017, 0.04 and 0.16
in 1, 2, 7 and 32 steps: about the 0.75th power of the steps. A client's limit therefore grows with the ratio of its
number of examples to the others', raised to this power. It does not grow when all clients take the same number of
steps. Clients of similar size stay within a factor of 2 of their median; the default limit is a factor of 10.

Two replies cannot outvote each other. If fewer than two other clients have moved at all, the largest value used in an
earlier round sets the limit. In the first round there is then no limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feddat.app.messages import TrainReply

#: An update's norm grows with this power of the number of steps.
POWER = 0.75
#: The largest ratio of a client's examples to another's that raises its limit, unless its number is agreed on.
MOST_MORE = 30.0
#: Factor by which limits of extra arrays and losses exceed those of updates: they depend on data and loss.
FREER = 5.0
#: Where examples are weights, the most that a client can claim relative to the others' median, unless agreed on.
MOST_CLAIMED = 100.0
#: How many numbers to process at a time.
_BLOCK = 2**18


@dataclass(frozen=True, slots=True)
class Measures:
    """The quantities of a reply that are compared; ``None``: the reply has none, or the client does not share it."""

    client: str
    update: float | None
    extras: float | None
    loss: float | None
    examples: int | None


@dataclass
class Judge:
    """The judge of one run.

    Attributes:
        most: the largest ratio of an update's norm to the median of the others.
        agreed: client -> agreed number of training examples.
        same_steps: all clients take the same number of local steps, whatever their number of examples.
        losses, examples: whether the aggregation rule weighs clients by these.
    """

    most: float = 10.0
    agreed: Mapping[str, int] = field(default_factory=dict)
    same_steps: bool = False
    losses: bool = False
    examples: bool = False
    _largest: dict[str, float] = field(default_factory=dict)

    def measure(self, client: str, reply: TrainReply, sent: Mapping[str, Tensor]) -> Measures:
        """Return the measures of a reply; ``sent`` is the shared part that the client trained from."""
        return Measures(
            client,
            norm(reply.shared, as_arrays(sent)) if reply.shared else None,
            norm(reply.extras) if reply.extras else None,
            reply.metrics.get("loss"),
            reply.examples,
        )

    def outliers(self, found: Sequence[Measures]) -> dict[int, str]:
        """Return the index of each outlier and the reason; the other replies set the limits of later rounds."""
        checks = [("update", "its update's norm", self.most), ("extras", "its extra arrays' norm", FREER * self.most)]
        if self.losses:
            checks.append(("loss", "its loss", FREER * self.most))
        reasons: dict[int, str] = {}
        for name, what, most in checks:
            for place, own in enumerate(found):
                value, limit = _value(own, name), self._limit(found, place, name, most)
                if limit is not None and value > limit:
                    reasons.setdefault(
                        place, f"{what} is {value:.3g}; compared with the others, at most {limit:.3g} is accepted"
                    )
        if self.examples:
            reasons = self._claims(found) | reasons
        for name, *_ in checks:
            used = [_value(own, name) for place, own in enumerate(found) if place not in reasons]
            self._largest[name] = max([self._largest.get(name, 0.0), *used])
        return reasons

    def _claims(self, found: Sequence[Measures]) -> dict[int, str]:
        """Return the index of each client that, without an agreed number, claims far more examples than the others."""
        reasons = {}
        for place, own in enumerate(found):
            others = [other.examples for at, other in enumerate(found) if at != place and other.examples]
            if own.examples is None or len(others) < 2 or own.client in self.agreed:
                continue
            if own.examples > (limit := MOST_CLAIMED * statistics.median(others)):
                reasons[place] = (
                    f"claims {own.examples} examples; compared with the others, at most {limit:.0f} are accepted; set "
                    "server.agreed_examples to accept more"
                )
        return reasons

    def _limit(self, found: Sequence[Measures], place: int, name: str, most: float) -> float | None:
        """Return the largest acceptable value of one measure of a reply; ``None``: there is nothing to compare with."""
        own, grows = found[place], name == "update" and not self.same_steps
        others = [
            (self._growth(own, other) if grows else 1.0) * size
            for at, other in enumerate(found)
            if at != place and (size := _value(other, name)) > 0
        ]
        if len(others) >= 2:
            return most * statistics.median(others)
        return most * self._largest[name] if self._largest.get(name) else None

    def _growth(self, own: Measures, other: Measures) -> float:
        """Return the factor by which an update can exceed another one because it took more steps."""
        most = math.inf if own.client in self.agreed else MOST_MORE
        more = own.examples / other.examples if own.examples and other.examples else MOST_MORE
        return float(max(1.0, min(more, most)) ** POWER)


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return tensors on the CPU as arrays that share their memory."""
    return {key: value.numpy() for key, value in tensors.items()}


def norm(values: Mapping[str, NDArray[Any]], minus: Mapping[str, NDArray[Any]] | None = None) -> float:
    """Return the L2 norm of arrays, or of the differences of two sets, computed in float64 block by block."""
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


def _value(measures: Measures, name: str) -> float:
    value: float | None = getattr(measures, name)
    return value or 0.0
