"""Grids that carry messages on this machine. The default runtime calls the ClientApp in this process.

Clients take turns in the order of their names and share one frozen model in memory. They receive and send real Flower
messages with serialised arrays, so server and clients exchange only messages.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from feddat.example import DataError

log = logging.getLogger(__name__)

#: Keys of a node's configuration: its client's name, and its client's own file.
CLIENT_KEY, SITE_KEY = "client", "data"
#: Flower's number of the run on grids of this machine, each of which has only one.
RUN_ID = 1
_SERVER_NODE = 0
#: How the error reply of a client with unusable data begins.
_UNUSABLE = f"{DataError.__name__}: "


class LocalGrid(Grid):
    """Base class of the grids on this machine: their nodes are always connected, and their names are known.

    Args:
        clients: client names; each gets a node id (1, 2, ... in sorted order).
    """

    def __init__(self, clients: Sequence[str]) -> None:
        self._run = Run.create_empty(RUN_ID)
        identify(RUN_ID)
        self.names = dict(enumerate(sorted(clients), start=1))
        self._sent = 0
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that this grid works in."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid works in."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids, in the order of client names."""
        return list(self.names)

    def get_nodes(self) -> list[NodeInfo]:
        """Return the nodes with the names of their clients; a node cannot choose its name."""
        return [NodeInfo(node_id=node, name=self.names.get(node, "")) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages immediately, and keep the replies for :meth:`pull_messages`."""
        replies = list(self.send_and_receive(messages))
        for reply in replies:
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to pushed messages, each once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies in the order of client names; after ``timeout`` seconds no further turn begins.

        An exception in a client becomes an error reply, as with Flower's own runtimes.

        Raises:
            DataError: a client's data cannot be used. It is on this machine, so its owner can mend it and run again.
        """

    @staticmethod
    def _used(reply: Message) -> Message:
        """Return a reply, unless a client could not use its data."""
        if reply.has_error() and (reason := reply.error.reason or "").startswith(_UNUSABLE):
            raise DataError(reason.removeprefix(_UNUSABLE))
        return reply

    def _stamped(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield messages in the order of client names, each with an id."""
        for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
            self._sent += 1
            # Flower has no public setter: in its own runtimes the server side assigns the ids.
            message.metadata.__dict__["_message_id"] = str(self._sent)
            yield message


class InProcessGrid(LocalGrid):
    """Carry messages between the server and ClientApp calls in this process.

    Args:
        app: the app that every client runs.
        clients: client names; each gets its own Context.
    """

    def __init__(self, app: ClientApp, clients: Sequence[str]) -> None:
        super().__init__(clients)
        self._app = app
        self._contexts = {node: client_context(node, name, RUN_ID) for node, name in self.names.items()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the reply of each message's client. A client takes its turn when its reply is requested."""
        began = time.monotonic()
        for message in self._stamped(messages):
            if timeout is not None and time.monotonic() - began >= timeout:
                return
            yield self._used(deliver(self._app, message, self._contexts[message.metadata.dst_node_id]))


def identify(run_id: int) -> None:
    """Tell Flower the identity of this process; without one it refuses to create messages."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, _SERVER_NODE


def client_context(node: int, name: str, run_id: int) -> Context:
    """Return the Context of a client on this machine."""
    return Context(run_id, node, {CLIENT_KEY: name}, state=RecordDict(), run_config={})


def deliver(app: ClientApp, message: Message, context: Context) -> Message:
    """Return the ClientApp's reply; an exception becomes an error reply."""
    try:
        return app(message, context)
    except Exception as error:  # An error in one client must not stop the others.
        # The server logs the error in one line; the traceback appears only at debug level.
        log.debug("client %s failed", context.node_config[CLIENT_KEY], exc_info=True)
        return failure(message, f"{type(error).__name__}: {error}")


def failure(message: Message, reason: str) -> Message:
    """Return the error reply of a message whose client failed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, " ".join(reason.split())), reply_to=message)
