"""Which clients of a process hold memory between their turns: the last ones, however many there are."""

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
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, Holds] = OrderedDict()

    def turn(self, client: Holds) -> None:
        """Note that a client has its turn now; whose turn is longest ago makes room for it."""
        self._kept[id(client)] = client
        self._kept.move_to_end(id(client))
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)[1].release()
