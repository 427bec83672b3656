"""Which clients of a process hold memory between their turns: all of few, or none of many.

Turns come in the same order every round. If there are more clients than may keep what they hold, each would have made
room for others just before its next turn, and keeping would cost memory for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol


class Holds(Protocol):
    """What holds memory that it can do without."""

    def release(self) -> None:
        """Let go of what can be made again."""
        ...


class Recent:
    """The clients that had the last turns; the others let go of their prepared data and their heads.

    Args:
        limit: so many keep theirs.
        clients: so many take turns; if they are more than ``limit``, each lets go as soon as the next has its turn.
    """

    def __init__(self, limit: int, clients: int) -> None:
        self._limit = limit if clients <= limit else 1
        self._kept: OrderedDict[int, Holds] = OrderedDict()

    def turn(self, client: Holds) -> None:
        """Note that a client has its turn now; whose turn is longest ago makes room for it."""
        self._kept[id(client)] = client
        self._kept.move_to_end(id(client))
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)[1].release()
