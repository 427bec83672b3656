"""A Grid around one of Flower's own that yields each reply as soon as it arrives."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from feddat.app.incoming import Mailbox

#: Size limit of a reply, in bytes, until the run's own limit is known.
MOST = 2**20
#: Seconds between two polls for replies.
PAUSE = 0.3
#: Seconds between two checks that awaited nodes are still connected; a node that is absent twice is given up.
LOOK = 5.0


class PollingGrid(Grid):
    """Yield replies as they arrive; Flower's grids poll every three seconds and return replies only when all are there.

    A reply that arrives after the timeout of :meth:`send_and_receive` is never requested, so it cannot be mistaken for
    an answer to a later message. A node that disconnects or is removed while it sends its reply will never finish; the
    grid stops waiting.

    Args:
        grid: the grid that carries the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._mailbox = Mailbox(grid, MOST) if isinstance(grid, HttpGrid) else None

    def limit(self, most: int) -> None:
        """Set the largest size of a reply, in bytes; replies from nodes on this machine have no limit."""
        if self._mailbox is not None:
            self._mailbox.most = most

    def set_run(self, run: Run) -> None:
        """Set the run that the grid works in."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the grid works in."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the connected nodes, sorted."""
        return sorted(self._grid.get_node_ids())

    def get_nodes(self) -> list[NodeInfo]:
        """Return the connected nodes, with the names under which their keys were admitted."""
        return list(self._grid.get_nodes())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return their ids."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived."""
        if self._mailbox is not None:
            return self._mailbox.pull(set(message_ids))
        return list(self._grid.pull_messages(message_ids))

    def forget(self, message_ids: Collection[str]) -> None:
        """Drop the parts of replies to messages that nobody waits for any more."""
        if self._mailbox is not None:
            self._mailbox.forget(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages, and yield each reply as it arrives, until all are there or ``timeout`` seconds have passed.

        Only this machine's monotonic clock counts; the clocks of other machines do not matter.
        """
        began = time.monotonic()
        sent = list(messages)
        waiting = {key for key in self.push_messages(sent) if key}
        asked = {message.metadata.message_id: message for message in sent}
        try:
            yield from self._answers(waiting, asked, began, timeout)
        finally:
            self.forget(waiting)

    def _answers(
        self, waiting: set[str], sent: Mapping[str, Message], began: float, timeout: float | None
    ) -> Iterator[Message]:
        nodes = {key: message.metadata.dst_node_id for key, message in sent.items()}
        looked, absent = time.monotonic(), set[str]()
        while waiting:
            replies = self.pull_messages(waiting)
            for reply in replies:
                asked = reply.metadata.reply_to_message_id
                waiting.discard(asked)
                if asked in nodes:
                    # If the node has gone, the SuperLink replies in its own name.
                    reply.metadata.__dict__["_src_node_id"] = nodes[asked]
                yield reply
            if timeout is not None and time.monotonic() - began >= timeout:
                return
            if time.monotonic() - looked >= LOOK:
                there = set(self.get_node_ids())
                gone = {key for key in waiting if nodes.get(key) not in there}
                for key in gone & absent:
                    waiting.discard(key)
                    yield Message(Error(ErrorCode.NODE_UNAVAILABLE, "its node has gone"), reply_to=sent[key])
                looked, absent = time.monotonic(), gone
            if waiting and not replies:
                time.sleep(PAUSE)
