"""The loop of rounds: what it asks for and when, what it counts, and what leaves a client."""

import numpy as np
from fakes import Adder, federate, shapes, shared
from flwr.app import ConfigRecord
from flwr.common.serde import recorddict_to_proto

from feddat.app import messages, versions
from feddat.app.checkpoint import ServerState
from feddat.app.server import splits_after
from feddat.config import EvalConfig


def test_splits_of_the_curve_and_of_the_end():
    config = EvalConfig(every=2)
    assert [splits_after(r, 5, config) for r in range(1, 6)] == [[], ["validation"], [], ["validation"], ["test"]]
    assert splits_after(2, 2, EvalConfig(every=2)) == ["validation", "test"]
    assert splits_after(2, 2, EvalConfig(split="test", curve_split="test")) == ["test"]


def test_only_the_evaluation_for_the_final_scores_is_marked_final():
    ann = Adder("ann")
    federate([ann], ServerState(shared()), rounds=2)
    assert ann.turns == [
        ("fit", 1),
        ("evaluate", 1, "validation", False),
        ("fit", 2),
        ("evaluate", 2, "validation", False),
        ("evaluate", 2, "test", True),
    ]


def test_bytes_are_those_of_the_serialised_messages():
    state = ServerState(shared())
    grid, _, _ = federate([Adder("ann"), Adder("bob")], state, rounds=2)

    def size(messages, kind):
        return sum(
            len(recorddict_to_proto(m.content).SerializeToString()) for m in messages if m.metadata.message_type == kind
        )

    for kind in ("train", "evaluate"):
        assert state.bytes[kind] == {"up": size(grid.up, kind), "down": size(grid.down, kind)}
    # Two clients, two rounds: the adapter (10 numbers of 4 bytes) goes both ways in training, only down for scores.
    assert min(state.bytes["train"].values()) > 4 * 40
    assert state.bytes["train"]["up"] - state.bytes["evaluate"]["up"] > 4 * 40


def test_a_message_holds_the_global_adapter_counts_and_metrics_only():
    grid, _, _ = federate([Adder("ann"), Adder("bob")], ServerState(shared()), rounds=2)
    kinds = {"query": set(), "train": {"shared", "metrics"}, "evaluate": {"metrics"}}
    assert {m.metadata.message_type for m in grid.up} == set(kinds)
    for message in grid.up:
        content = message.content
        if message.metadata.message_type == "query":
            config = dict(content.config_records["config"])
            assert config.pop("client") in ("ann", "bob")
            assert config.pop("members") in (["ann"], ["bob"])
            assert config.pop("sharing") == "scores"
            assert config.pop("kept") == 0
            assert config == versions.told()
            continue
        assert set(content) == kinds[message.metadata.message_type]
        assert not content.config_records
        for record in content.array_records.values():
            assert {key: array.shape for key, array in record.items()} == shapes(shared())
            assert all(array.numpy().dtype == np.float32 for array in record.values())
        for record in content.metric_records.values():
            assert all(isinstance(value, int | float) for value in record.values())
    for message in grid.down:
        for record in message.content.values():
            if isinstance(record, ConfigRecord):
                assert set(record) in ({"run", *versions.told()}, set(messages.INSTRUCTED))


def test_a_method_that_does_not_communicate_sends_no_arrays():
    state = ServerState({})
    grid, _, events = federate([Adder("ann"), Adder("bob")], state, rounds=2)
    assert not any(message.content.array_records for message in grid.up + grid.down)
    assert state.shared == {}
    assert [event["scores"]["dat"] for event in events if event["event"] == "eval" and event["client"] == "ann"] == [
        50.0
    ] * 3


def test_events_tell_the_round_and_the_time_left():
    _, _, events = federate([Adder("ann", 1), Adder("bob", 3)], ServerState(shared()), rounds=2)
    assert [event["event"] for event in events if event["round"] == 1] == [
        *("asked", "fit", "fit", "updates", "asked", "eval", "eval", "round")
    ]
    end = [event for event in events if event["event"] == "round"]
    assert end[0]["metrics"] == {"loss": 2.0}
    assert end[0]["scores"] == {"validation": {"dat": 2.0, "local": 1.0}}
    assert end[0]["seconds_left"] > 0
    assert end[1]["seconds_left"] == 0
    assert set(end[1]["scores"]) == {"validation", "test"}


def test_a_loop_goes_on_from_the_state_it_is_given():
    ann = Adder("ann", 1)
    state = ServerState(shared(2.0), round=2, failed=4)
    state.bytes["train"]["up"] = 1000
    state.seconds["train"] = 50.0
    saved = []
    federate([ann], state, rounds=3, save=lambda state: saved.append((state.round, float(state.shared["up.bias"][0]))))
    assert saved == [(3, 3.0)]
    assert ann.turns[0] == ("fit", 3)
    assert state.bytes["train"]["up"] > 1000
    assert state.seconds["train"] > 50.0
    assert state.failed == 4
