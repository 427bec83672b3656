"""Which replies of a round stand out: each is measured against the others of the same round, before any is used.

Norms of honest updates lie close together. AdamW moves every number by about the learning rate, whatever the data and
the loss are; clients differ in how many steps they take. On the mini suite an adapter of 1, 2, 7 and 32 steps moves by
0.013, 0.017, 0.04 and 0.16: about the 0.75th power. So a client's limit grows with the number of its examples over that
of the others, by this power (it does not where all take the same number of steps). Clients of like size stay within a
factor of 2 of their median; the default is 10.

Two replies cannot outvote each other: where fewer than two others have moved at all, the largest that was used in an
earlier round is the measure, and in the first round there is none.
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

#: A norm grows with this power of the number of steps.
POWER = 0.75
#: Examples over those of the others by which a client's limit grows at most, unless their number is agreed on.
MOST_MORE = 30.0
#: Extra arrays and losses may stand out so many times as far as updates: they depend on data and loss.
FREER = 5.0
#: Examples over the median of the others that a client may claim at most, where they are its weight, unless agreed on.
MOST_CLAIMED = 100.0
#: Numbers that are looked at together.
_BLOCK = 2**18


@dataclass(frozen=True, slots=True)
class Measures:
    """What of a reply is compared; ``None``: it has none, or keeps it back."""

    client: str
    update: float | None
    extras: float | None
    loss: float | None
    examples: int | None


@dataclass
class Judge:
    """The judge of one run.

    Attributes:
        most: times the median of the others that an update's norm may have.
        agreed: client -> number of training examples that is agreed on.
        same_steps: all clients take the same number of local steps, whatever they have.
        losses, examples: whether these have weight in the rule of aggregation.
    """

    most: float = 10.0
    agreed: Mapping[str, int] = field(default_factory=dict)
    same_steps: bool = False
    losses: bool = False
    examples: bool = False
    _largest: dict[str, float] = field(default_factory=dict)

    def measure(self, client: str, reply: TrainReply, sent: Mapping[str, Tensor]) -> Measures:
        """Return what is compared of a reply; ``sent`` is what it was trained from."""
        return Measures(
            client,
            norm(reply.shared, {key: value.numpy() for key, value in sent.items()}) if reply.shared else None,
            norm(reply.extras) if reply.extras else None,
            reply.metrics.get("loss"),
            reply.examples,
        )

    def outliers(self, found: Sequence[Measures]) -> dict[int, str]:
        """Return the places of the replies that stand out, and in what; the others are the measure of later rounds."""
        checks = [("update", "its update's norm", self.most), ("extras", "its extra arrays' norm", FREER * self.most)]
        if self.losses:
            checks.append(("loss", "its loss", FREER * self.most))
        reasons: dict[int, str] = {}
        for name, what, most in checks:
            for place, own in enumerate(found):
                value, limit = _value(own, name), self._limit(found, place, name, most)
                if limit is not None and value > limit:
                    reasons.setdefault(
                        place, f"{what} is {value:.3g}; by those of the others at most {limit:.3g} is used"
                    )
        if self.examples:
            reasons = self._claims(found) | reasons
        for name, *_ in checks:
            used = [_value(own, name) for place, own in enumerate(found) if place not in reasons]
            self._largest[name] = max([self._largest.get(name, 0.0), *used])
        return reasons

    def _claims(self, found: Sequence[Measures]) -> dict[int, str]:
        """Return the places of those who claim far more examples than the others, though their number is not agreed."""
        reasons = {}
        for place, own in enumerate(found):
            others = [other.examples for at, other in enumerate(found) if at != place and other.examples]
            if own.examples is None or len(others) < 2 or own.client in self.agreed:
                continue
            if own.examples > (limit := MOST_CLAIMED * statistics.median(others)):
                reasons[place] = (
                    f"says to have {own.examples} examples; by those of the others at most {limit:.0f} are believed, "
                    "unless server.agreed_examples names more"
                )
        return reasons

    def _limit(self, found: Sequence[Measures], place: int, name: str, most: float) -> float | None:
        """Return the most that a reply may have of something; ``None``: nothing to measure it by."""
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
        """Return by how much an update may be larger than another one for its number of steps."""
        most = math.inf if own.client in self.agreed else MOST_MORE
        more = own.examples / other.examples if own.examples and other.examples else MOST_MORE
        return float(max(1.0, min(more, most)) ** POWER)


def norm(values: Mapping[str, NDArray[Any]], minus: Mapping[str, NDArray[Any]] | None = None) -> float:
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


def _value(measures: Measures, name: str) -> float:
    value: float | None = getattr(measures, name)
    return value or 0.0
