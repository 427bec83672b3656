"""The clients of a process that hold memory between their turns: all clients if there are few, none if there are many.

Turns come in the same order every round. With more clients than the limit, each client would lose its memory just
before its next turn, so keeping anything would be useless.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol


class Holds(Protocol):
    """An object that holds memory that it can give up."""

    def release(self) -> None:
        """Release everything that can be made again."""
        ...


class Recent:
    """The clients that had the last turns; all others release their prepared data and their heads.

    Args:
        limit: number of clients that keep theirs.
        clients: number of clients that take turns. If it exceeds ``limit``, a client releases as soon as the next one
            has its turn.
    """

    def __init__(self, limit: int, clients: int) -> None:
        self._limit = limit if clients <= limit else 1
        self._kept: OrderedDict[int, Holds] = OrderedDict()

    def turn(self, client: Holds) -> None:
        """Note that a client has its turn now; the client with the oldest turn makes room for it."""
        self._kept[id(client)] = client
        self._kept.move_to_end(id(client))
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)[1].release()
