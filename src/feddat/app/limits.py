"""What a reply may at most claim: checked after its form, before it is aggregated.

These stop accidents (a client whose training ran away, a counter that overflowed) and the crudest forgeries. They are
no defence against a client that lies within them: that is what robust rules of aggregation are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feddat.app.messages import ReplyError, TrainReply


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
            moved = _norm({key: value.astype(np.float64) - sent[key] for key, value in reply.shared.items()})
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


def _norm(values: Mapping[str, NDArray[Any]]) -> float:
    return math.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in values.values()))
