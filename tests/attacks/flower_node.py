"""A Flower node that connects to a real SuperLink with a real key, and sends any bytes that a test chooses."""

import hashlib
import threading
import time
from contextlib import contextmanager

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supernode.fleet_http_connection import http_request_response

from feddat.app.grid import identify


class Node:
    """A connected node.

    Attributes:
        id: the node's id.
    """

    def __init__(self, connection):
        self.id, self.receive, self._send, self._run, self._fab, self._pull, self._push, self._confirm = connection

    def messages(self, over):
        """Yield the messages that arrive, until ``over`` is set or the connection fails."""
        while not over.is_set():
            try:
                found = self.receive()
                if found is None:
                    time.sleep(0.2)
                    continue
                message, tree = found
                run = message.metadata.run_id
                identify(run)
                parts = {part.object_id: self._pulled(run, part.object_id) for part in iterate_object_tree(tree)}
                self._confirm(run, message.metadata.message_id)
            except (httpx.HTTPError, ObjectPullError):
                return
            whole = inflate_object_from_contents(message.metadata.message_id, parts)
            yield make_message(metadata=message.metadata, content=whole.content)

    def _pulled(self, run, part):
        while True:
            try:
                return self._pull(run, part)
            except ObjectUnavailableError:
                time.sleep(0.1)

    def answer(self, content, asked, forge=None, whole=True):
        """Send a reply.

        Args:
            content: content of the reply.
            asked: the message to answer.
            forge: false metadata inside the reply, name -> value; the SuperLink gets the true metadata.
            whole: whether to send the parts of the reply at all.
        """
        honest = Message(content, reply_to=asked).metadata
        told = dict(honest.__dict__)
        honest.__dict__.update(forge or {})
        reply = make_message(metadata=honest, content=content)
        parts = {key: part.deflate() for key, part in get_all_nested_objects(reply).items()}
        tree, identity = get_object_tree(reply), reply.object_id
        honest.__dict__.update(told)
        self._deliver(asked, honest, identity, tree, parts if whole else {})

    def answer_with(self, asked, part, children=()):
        """Send a reply that consists of one given part and claims to have ``children`` below it."""
        identity = hashlib.sha256(part).hexdigest()
        tree = ObjectTree(object_id=identity, children=[ObjectTree(object_id=child) for child in children])
        metadata = Message(RecordDict({"m": MetricRecord({"a": 1})}), reply_to=asked).metadata
        self._deliver(asked, metadata, identity, tree, {identity: part})

    def _deliver(self, asked, metadata, identity, tree, parts):
        metadata.__dict__["_message_id"] = identity
        empty = make_message(metadata=metadata, content=RecordDict())
        missing, session = self._send(empty, tree, 0.0)
        for key, part in parts.items():
            if key in missing:
                self._push(asked.metadata.run_id, session, key, part)


@contextmanager
def connected(place, address):
    """Connect with the key pair in a folder."""
    key = serialization.load_ssh_private_key((place / "node.key").read_bytes(), password=None)
    authority = (place / "ca.crt").read_bytes()
    with http_request_response(address, False, authority, (key, key.public_key()), 3, 30) as connection:
        yield Node(connection)


@contextmanager
def answering(place, address, answer):
    """Run a node in a thread for the length of the block; it passes every message to ``answer``.

    The node goes on after an answer that the SuperLink does not take, and connects again when its connection is lost.
    """
    over, ready = threading.Event(), threading.Event()

    def work():
        while not over.is_set():
            with connected(place, address) as node:  # Flower logs what ends a connection, and does not raise it
                ready.set()
                for message in node.messages(over):
                    try:
                        answer(node, message)
                    except (httpx.HTTPError, ObjectPushError) as error:
                        reason = error.response.text[:300] if isinstance(error, httpx.HTTPStatusError) else ""
                        print(f"node {node.id}: {error}: {reason}", flush=True)
            over.wait(1)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        over.set()
        thread.join(30)
