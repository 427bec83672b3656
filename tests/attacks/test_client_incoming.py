"""Replies fetched from a SuperLink part by part: complete, forged, too large and invalid ones; and what is logged."""

import hashlib
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from feddat.app.grid import identify
from feddat.app.incoming import Mailbox
from feddat.log import JsonLog

MOST = 2**20


class Link:
    """A fake SuperLink with one reply: its own metadata of it, the tree of parts, and the parts that have arrived."""

    def __init__(self, content, tell=lambda metadata: None):
        identify(1)
        asked = Message(RecordDict({"c": MetricRecord({"a": 1})}), 7, "train")
        asked.metadata.__dict__["_message_id"] = "asked"
        reply = Message(content, reply_to=asked)
        honest = dict(reply.metadata.__dict__)
        tell(reply.metadata)
        self.parts = {key: part.deflate() for key, part in get_all_nested_objects(reply).items()}
        self.tree, identity = get_object_tree(reply), reply.object_id
        reply.metadata.__dict__.update(honest)
        self.named(reply, identity)
        self.waiting, self.confirmed, self.asked_for = True, [], []
        self._runtime_client, self.node = self, None

    def named(self, reply, identity):
        reply.metadata.__dict__["_message_id"] = identity
        self.proto = message_to_proto(reply)
        self.proto.ClearField("content")

    def PullMessages(self, request):
        found, self.waiting = self.waiting, False
        return SimpleNamespace(messages_list=[self.proto] * found, message_object_trees=[self.tree] * found)

    def PullObject(self, request):
        self.asked_for.append(request.object_id)
        part = self.parts.get(request.object_id)
        return SimpleNamespace(object_found=True, object_available=part is not None, object_content=part)

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)


def content(numbers=4):
    return RecordDict({"shared": ArrayRecord({"w": Array(np.ones(numbers, np.float32))}), "m": MetricRecord({"a": 1})})


def test_a_reply_is_whole_when_its_last_part_has_come():
    link = Link(content())
    late = dict(list(link.parts.items())[:2])
    for key in late:
        del link.parts[key]
    mailbox = Mailbox(link, MOST)
    assert mailbox.pull({"asked"}) == []
    assert mailbox.pull({"asked"}) == [], "others are served meanwhile"
    link.parts |= late
    [reply] = mailbox.pull({"asked"})
    assert reply.content["shared"]["w"].numpy().tolist() == [1, 1, 1, 1]
    assert reply.metadata.reply_to_message_id == "asked"
    assert link.confirmed == [reply.metadata.message_id]


def test_a_reply_is_whose_the_superlink_says_whatever_it_says_itself():
    def lie(metadata):
        metadata.__dict__.update({"_src_node_id": 99, "_reply_to_message_id": "of another", "_run_id": 5})

    [reply] = Mailbox(Link(content(), lie), MOST).pull({"asked"})
    assert (reply.metadata.src_node_id, reply.metadata.reply_to_message_id, reply.metadata.run_id) == (7, "asked", 1)


def refused(link):
    [reply] = Mailbox(link, MOST).pull({"asked"})
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == "asked"
    return reply.error.reason


def test_a_reply_that_is_too_large_is_not_fetched_to_its_end():
    link = Link(RecordDict({"shared": ArrayRecord({f"w{i}": Array(np.full(2**16, i, np.float32)) for i in range(64)})}))
    assert refused(link) == f"its reply cannot be read: it has more than {MOST} bytes, the limit for a reply"
    assert len(link.asked_for) < len(link.parts)


def with_tree(tree):
    link = Link(content())
    link.tree = tree
    return link


def test_trees_that_are_wide_or_deep_are_refused_before_a_part_is_fetched():
    wide = with_tree(ObjectTree(object_id="0", children=[ObjectTree(object_id=str(i)) for i in range(1, 3000)]))
    assert "more than 1064 parts" in refused(wide)
    tree = ObjectTree(object_id="0")
    for depth in range(1, 40):
        tree = ObjectTree(object_id=str(depth), children=[tree])
    deep = with_tree(tree)
    assert "nested more than 8 levels deep" in refused(deep)
    assert wide.asked_for == deep.asked_for == []


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"junk",
        b"Message \x1b[2J 5\x00",
        b"Nothing  0\x00",
        b"Message  -1\x00\xff\xff",
        MetricRecord({"a": 1}).deflate(),
    ],
)
def test_invalid_message_parts_are_refused(part):
    link, identity = Link(content()), hashlib.sha256(part).hexdigest()
    link.proto.metadata.message_id, link.tree, link.parts = identity, ObjectTree(object_id=identity), {identity: part}
    assert refused(link).startswith("its reply cannot be read: ")


def test_a_log_holds_nothing_that_a_terminal_obeys(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    evil = "\x1b[2J\x1b]0;owned\x07\u202e" + "x" * 10**6
    reason = {
        "event": "refused",
        "round": 1,
        "client": evil,
        "kind": "train",
        "reason": evil,
        "more": {evil: [evil] * 3},
    }
    log.event(reason)
    log.emit(logging.LogRecord("feddat.x", logging.WARNING, "", 0, "said %s", (evil,), None))
    text = (tmp_path / "log.jsonl").read_text()
    assert len(text) < 10_000
    assert all(line.isprintable() for line in text.splitlines())
    for line in map(json.loads, text.splitlines()):
        assert "\x1b" not in str(line.values())
        assert line["message"].isprintable()
