import numpy as np
import pytest
import torch
from fakes import shapes, shared
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from feddat.app import messages
from feddat.app.grid import InProcessGrid
from feddat.app.messages import Member, ReplyError


@pytest.fixture
def asked() -> Message:
    InProcessGrid(None, [])  # Flower creates messages only in a process with an identity
    config = messages.instruction_config(3, 5)
    return Message(messages.instruction_content(messages.to_arrays(shared(0.5)), config), 1, "train")


def read(reply: Message, expected=None):
    return messages.read_train_reply(reply, "ann", 3, shapes(shared()) if expected is None else expected)


def test_instruction_comes_back_through_the_wire_format(asked):
    asked.content = recorddict_from_proto(recorddict_to_proto(asked.content))
    instruction = messages.read_instruction(asked)
    assert (instruction.round, instruction.rounds, instruction.split, instruction.final) == (3, 5, "train", False)
    assert list(instruction.shared) == ["down.weight", "up.bias"]
    assert torch.equal(instruction.shared["up.bias"], torch.full((4,), 0.5))


def test_nothing_shared_is_nothing_sent(asked):
    content = messages.instruction_content(ArrayRecord(), messages.instruction_config(1, 1))
    assert not content.array_records
    asked.content = content
    assert messages.read_instruction(asked).shared is None


def test_train_reply_round_trip_is_exact(asked):
    state = {"down.weight": torch.randn(2, 3), "up.bias": torch.randn(4)}
    reply = read(messages.train_reply(asked, 3, state, 11, {"loss": 0.25}))
    assert reply.examples == 11
    assert reply.metrics == {"loss": 0.25}
    assert all(np.array_equal(reply.shared[key], state[key].numpy()) for key in state)


def test_extra_arrays_travel_beside_the_shared_part_both_ways(asked):
    extras = {"c.up.bias": torch.randn(4)}
    asked.content = messages.instruction_content(
        messages.to_arrays(shared(0.5)), messages.instruction_config(3, 5), extras
    )
    instruction = messages.read_instruction(asked)
    assert list(instruction.shared) == ["down.weight", "up.bias"]
    assert torch.equal(instruction.extras["c.up.bias"], extras["c.up.bias"])

    content = messages.train_reply(asked, 3, shared(), 11, {"loss": 0.25}, {"sum": torch.ones(2)})
    assert set(content.content["shared"]) == {"down.weight", "up.bias", "extra/sum"}
    reply = messages.read_train_reply(content, "ann", 3, shapes(shared()), {"sum": (2,)})
    assert list(reply.shared) == ["down.weight", "up.bias"]
    assert reply.extras["sum"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("extras", "expected", "reason"),
    [
        ({}, {"sum": (2,)}, "missing extra/sum"),
        ({"sum": torch.ones(2)}, {}, "unexpected extra/sum"),
        ({"sum": torch.ones(3)}, {"sum": (2,)}, r"array extra/sum is float32\(3,\), expected float32\(2,\)"),
    ],
)
def test_extra_arrays_that_do_not_fit_are_refused(asked, extras, expected, reason):
    reply = messages.train_reply(asked, 3, shared(), 11, {}, extras)
    with pytest.raises(ReplyError, match=reason):
        messages.read_train_reply(reply, "ann", 3, shapes(shared()), expected)


def test_wire_size_is_what_flower_would_serialise(asked):
    reply = messages.train_reply(asked, 3, shared(), 11, {"loss": 0.25})
    assert messages.wire_size(reply) == len(recorddict_to_proto(reply.content).SerializeToString())
    # 10 float32 values in two .npy blobs of 128 header bytes each, plus names.
    assert 40 + 256 < messages.wire_size(reply) < 40 + 256 + 250


def bad(**changes):
    arrays = {key: Array(value) for key, value in ((k, v.numpy()) for k, v in shared().items())}
    metrics = {"round": 3, "num-examples": 2, "train.loss": 1.0}
    arrays.update(changes.get("arrays", {}))
    metrics.update(changes.get("metrics", {}))
    arrays = {key: value for key, value in arrays.items() if value is not None}
    return RecordDict({"shared": ArrayRecord(arrays), "metrics": MetricRecord(metrics)} | changes.get("records", {}))


NAN = np.array([0, 1, np.nan, 2], dtype=np.float32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bad(metrics={"round": 2}), "answers for round 2, expected 3"),
        (bad(metrics={"num-examples": 0}), "num-examples is 0"),
        (bad(metrics={"train.loss": float("inf")}), "metric train.loss is inf"),
        (bad(metrics={"train.loss": [1.0]}), "not a record of single numbers"),
        (bad(arrays={"up.bias": Array(NAN)}), "array up.bias has NaN"),
        (bad(arrays={"up.bias": Array(np.zeros(5, np.float32))}), r"array up.bias is float32\(5,\), expected"),
        (bad(arrays={"up.bias": Array(np.zeros(4))}), r"array up.bias is float64\(4,\)"),
        (bad(arrays={"up.bias": None}), "missing up.bias"),
        (bad(arrays={"head.weight": Array(NAN)}), "unexpected head.weight"),
        (bad(arrays={"up.bias": Array("float32", (4,), "numpy.ndarray", b"junk")}), "array up.bias cannot be read"),
        (bad(records={"notes": ConfigRecord({"text": "hello"})}), "unexpected notes"),
        (RecordDict({"metrics": MetricRecord({"round": 3, "num-examples": 1})}), "missing shared"),
    ],
)
def test_train_reply_that_does_not_fit_is_refused(asked, content, reason):
    with pytest.raises(ReplyError, match=reason) as caught:
        read(Message(content, reply_to=asked))
    assert caught.value.client == "ann"
    assert not caught.value.failed
    assert "\n" not in str(caught.value)


def test_arrays_from_a_method_that_shares_nothing_are_refused(asked):
    with pytest.raises(ReplyError, match="unexpected shared"):
        read(messages.train_reply(asked, 3, shared(), 1, {}), expected={})


def test_error_reply_is_a_failure(asked):
    with pytest.raises(ReplyError, match="client ann: out of memory") as caught:
        read(Message(Error(0, "out of\n memory"), reply_to=asked))
    assert caught.value.failed


def test_evaluate_reply_names_members_only_where_there_are_several(asked):
    routes = {"dat": 40.0, "local": 30.0}
    one = messages.evaluate_reply(asked, 3, "ann", {"ann": routes}, {"ann": 5})
    assert set(one.content["metrics"]) == {"round", "num-examples", "examples", "score.dat", "score.local"}
    found = messages.read_evaluate_reply(one, Member("ann", ("ann",)), 3, ["dat", "local"])
    assert found.scores == {"ann": routes}

    both = messages.evaluate_reply(
        asked, 3, "central", {"ann": {"global": 1.0}, "bob": {"global": 2.0}}, {"ann": 5, "bob": 6}
    )
    found = messages.read_evaluate_reply(both, Member("central", ("ann", "bob")), 3, ["global"])
    assert found.scores == {"ann": {"global": 1.0}, "bob": {"global": 2.0}}
    assert found.examples == {"ann": 5, "bob": 6}


def test_a_member_without_examples_has_no_score(asked):
    reply = messages.evaluate_reply(asked, 3, "ann", {}, {"ann": 0})
    assert messages.read_evaluate_reply(reply, Member("ann", ("ann",)), 3, ["dat"]).scores == {}


@pytest.mark.parametrize(
    ("scores", "reason"), [({"dat": 101.0}, "expected 0 to 100"), ({"local": 3.0}, "missing score.dat")]
)
def test_scores_that_do_not_fit_are_refused(asked, scores, reason):
    reply = messages.evaluate_reply(asked, 3, "ann", {"ann": scores}, {"ann": 5})
    with pytest.raises(ReplyError, match=reason):
        messages.read_evaluate_reply(reply, Member("ann", ("ann",)), 3, ["dat"])
