"""Pull replies from a SuperLink object by object, within a size limit.

The SuperLink stores a reply as a tree of objects that its node uploads one by one. Flower's own client waits up to two
hours for the last object, holds any number of them, and trusts what the reply says about its sender and the message it
answers. A node that sends half a reply would then halt the run, a node that sends gigabytes would end it, and a node
could reply in another one's name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import HttpGrid

#: Number of objects to request at the same time.
_TOGETHER = 8
#: A reply can have ``_OBJECTS`` objects, and one more for every ``_BYTES_PER_OBJECT`` bytes of its size limit.
_BYTES_PER_OBJECT, _OBJECTS = 2**14, 1000
#: The largest depth of a reply's tree; a reply needs five levels: message, record dictionary, record, array, chunk.
_DEEP = 8


class IncomingError(ValueError):
    """The received objects do not form a valid reply; the message says why."""


@dataclass
class Incoming:
    """One reply that is not complete yet.

    Attributes:
        metadata: the SuperLink's metadata of the reply.
        missing: ids of the objects that have not arrived.
        contents: id -> content of the objects that have arrived.
        size: total bytes in ``contents``.
    """

    metadata: Metadata
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class Mailbox:
    """The replies to the messages of one grid.

    Args:
        grid: Flower's own grid.
        most: the largest size of a reply, in bytes.
    """

    def __init__(self, grid: HttpGrid, most: int) -> None:
        self.most = most
        self._grid = grid
        self._incoming: dict[str, Incoming] = {}

    def pull(self, asked: set[str]) -> list[Message]:
        """Return the replies that are now complete; an invalid reply becomes an error reply.

        Raises:
            httpx.HTTPError: the SuperLink cannot be reached.
        """
        fresh = asked - self._incoming.keys()
        done: list[Message] = []
        if fresh:
            found = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=sorted(fresh)))
            for proto, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                done += self._begun(proto, tree)
        for key in [key for key in self._incoming if key in asked]:
            done += self._advanced(key)
        return done

    def forget(self, asked: Collection[str]) -> None:
        """Drop the parts of replies that nobody waits for any more."""
        for key in asked:
            self._incoming.pop(key, None)

    def _begun(self, proto: ProtoMessage, tree: ObjectTree) -> list[Message]:
        metadata = metadata_from_proto(proto.metadata)
        try:
            missing = _objects(tree, _OBJECTS + self.most // _BYTES_PER_OBJECT)
        except IncomingError as error:
            return [_failure(metadata, error)]
        self._incoming[metadata.reply_to_message_id] = Incoming(metadata, missing)
        return []

    def _advanced(self, key: str) -> list[Message]:
        """Request a reply's missing objects; return the reply if it is now complete, or an error reply."""
        reply = self._incoming[key]
        try:
            if not self._is_whole(reply):
                return []
            message = _inflated(reply)
        except (IncomingError, MemoryError, httpx.HTTPStatusError) as error:
            message = _failure(reply.metadata, error)
        del self._incoming[key]
        with suppress(httpx.HTTPStatusError):  # the SuperLink may have dropped the reply already
            self._grid._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._grid.node, run_id=reply.metadata.run_id, message_object_id=reply.metadata.message_id
                )
            )
        return [message]

    def _is_whole(self, reply: Incoming) -> bool:
        client, node = self._grid._runtime_client, self._grid.node
        requests = [
            PullObjectRequest(node=node, run_id=reply.metadata.run_id, object_id=object_id)
            for object_id in reply.missing
        ]
        missing: list[str] = []
        with ThreadPoolExecutor(_TOGETHER) as pool:
            for begin in range(0, len(requests), _TOGETHER):
                some = requests[begin : begin + _TOGETHER]
                for request, answer in zip(some, pool.map(client.PullObject, some), strict=True):
                    if not answer.object_found:
                        raise IncomingError("parts of it are no longer at the SuperLink")
                    if not answer.object_available:
                        missing.append(request.object_id)
                        continue
                    reply.contents[request.object_id] = answer.object_content
                    reply.size += len(answer.object_content)
                    if reply.size > self.most:
                        raise IncomingError(f"it has more than {self.most} bytes, the limit for a reply")
                if missing:  # its node is still uploading; request the rest next time
                    missing += [request.object_id for request in requests[begin + _TOGETHER :]]
                    break
        reply.missing = missing
        return not missing


def _objects(tree: ObjectTree, most: int) -> list[str]:
    """Return the ids of a tree's objects, each once."""
    found: dict[str, None] = {}
    level = [tree]
    for _ in range(_DEEP):
        if not level:
            return list(found)
        below: list[ObjectTree] = []
        for part in level:
            found[part.object_id] = None
            below += part.children
        if len(found) + len(below) > most:
            raise IncomingError(f"it has more than {most} parts, the limit for a reply")
        level = below
    if level:
        raise IncomingError(f"its parts are nested more than {_DEEP} levels deep")
    return list(found)


def _inflated(reply: Incoming) -> Message:
    """Return a complete reply, with the SuperLink's metadata in place of the reply's own."""
    try:
        _check_children(reply.contents)
        message = inflate_object_from_contents(reply.metadata.message_id, reply.contents)
    except Exception as error:  # The node wrote every byte, so decoding can fail in any way.
        raise IncomingError(f"{type(error).__name__}: {error}") from None
    if not isinstance(message, Message):
        raise IncomingError(f"it is a {type(message).__name__}, expected a message")
    if message.has_error():
        return make_message(metadata=reply.metadata, error=message.error)
    return make_message(metadata=reply.metadata, content=message.content)


def _check_children(contents: Mapping[str, bytes]) -> None:
    """Refuse objects that refer to objects that did not arrive, before decoding them."""
    for content in contents.values():
        for child in get_object_head_values_from_object_content(content)[1]:
            if child not in contents:
                raise IncomingError("a part of it refers to a part that did not arrive")


def _failure(metadata: Metadata, error: Exception) -> Message:
    reason = f"its reply cannot be read: {error or type(error).__name__}"
    return make_message(metadata=metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, reason))
