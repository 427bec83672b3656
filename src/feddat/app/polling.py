"""A Grid over one of Flower's own, from which replies come one by one, as soon as they are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from feddat.app.incoming import Mailbox

#: Bytes of a reply before it is known how many one may have.
MOST = 2**20
#: Seconds between two looks for replies.
PAUSE = 0.3
#: Seconds between two looks for the nodes that replies are waited for from; after two without it a node is given up.
LOOK = 5.0


class PollingGrid(Grid):
    """Flower's grids give out replies when all are there, and look for them every three seconds; this one does not.

    A reply that comes after the timeout is never asked for, so it cannot be taken for an answer to a later message. A
    node that goes away, or is taken out, while it sends its reply never ends it: that is not waited for either.

    Args:
        grid: what carries the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._mailbox = Mailbox(grid, MOST) if isinstance(grid, HttpGrid) else None

    def limit(self, most: int) -> None:
        """Let replies have so many bytes at most; those of nodes on this machine are not counted."""
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
        """Return the ids of the nodes that are connected."""
        return sorted(self._grid.get_node_ids())

    def get_nodes(self) -> list[NodeInfo]:
        """Return the nodes that are connected, with the names under which their keys were let in."""
        return list(self._grid.get_nodes())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; return their ids."""
        return list(self._grid.push_messages(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there."""
        if self._mailbox is not None:
            return self._mailbox.pull(set(message_ids))
        return list(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages, and yield every reply when it comes, until all are there or ``timeout`` seconds have passed.

        Time is taken from this machine's steady clock: nothing depends on what other machines think the time is.
        """
        began = time.monotonic()
        sent = list(messages)
        waiting = {key for key in self.push_messages(sent) if key}
        asked = {message.metadata.message_id: message for message in sent}
        try:
            yield from self._answers(waiting, asked, began, timeout)
        finally:
            if self._mailbox is not None:
                self._mailbox.forget(waiting)

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
                    # For a node that has gone, the SuperLink answers in its own name.
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
