"""All clients of a secure sum received the same: honest runs in every wire format, and servers that send two things."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import shared
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from secure_fakes import Drawn, Dropping, secure_app, secure_federate

from feddat.app import messages
from feddat.app.checkpoint import ServerState
from feddat.app.grid import identify
from feddat.app.messages import Instruction
from feddat.app.roster import FederationError
from feddat.config import WireConfig
from feddat.privacy.secure_sum.terms import Rules

FORMATS = [(name, delta) for name in ("fp32", "fp16", "bf16", "int8") for delta in (False, True)]


@pytest.mark.parametrize(("name", "delta"), FORMATS)
def test_honest_runs_go_on_in_every_format_and_after_missed_rounds(tmp_path, name, delta):
    everybody = [Drawn(f"c{at}") for at in range(5)]
    grid = Dropping(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    gone = {(1, "train"): {"c1"}, (2, "train"): {"c1"}, (2, "query.mask"): {"c3"}}
    state = ServerState(shared(0.3))
    wire = WireConfig(format=name, delta=delta)
    _, strategy, events = secure_federate(everybody, state, tmp_path, rounds=3, grid=grid, gone=gone, wire=wire)
    assert state.round == 3 and strategy.intake.failed == 3 and strategy.intake.refused == 0
    assert not [event for event in events if event["event"] == "kept"]
    found = [messages.hash_of(messages.read_instruction(m)) for m in grid.down if m.metadata.message_type == "train"]
    assert [len(set(found[at : at + 5])) for at in (0, 5, 10)] == [1, 1, 1] and len(set(found)) == 3


def changed(message, what):
    """Change what one client receives."""
    config, arrays = message.content["config"], message.content["shared"]
    if what == "adapter":
        moved = {key: value + 1e-7 for key, value in messages.to_tensors(arrays).items()}
        message.content["shared"] = messages.to_arrays(moved)
    elif what == "extra array":
        extra = messages.to_arrays({messages.EXTRA + "control": torch.zeros(2)})
        message.content["shared"] = ArrayRecord({**arrays, **extra})
    else:
        value = {"rounds": 99, "final": True, "split": "test", "model": ["weights=other"]}[what]
        message.content["config"] = ConfigRecord({**config, what: value})


@pytest.mark.parametrize("what", ["adapter", "extra array", "rounds", "final", "split", "model"])
def test_no_masked_update_leaves_if_one_client_received_something_else(tmp_path, what):
    class Lying(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            for message in messages:
                if message.metadata.message_type == "train" and self.names[message.metadata.dst_node_id] == "c1":
                    changed(message, what)
            yield from super().send_and_receive(messages, timeout=timeout)

    everybody = [Drawn(f"c{at}") for at in range(3)]
    grid = Lying(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    with pytest.raises(FederationError, match="round 1, mask: no client could do its part") as error:
        secure_federate(everybody, ServerState(shared(0.3)), tmp_path, grid=grid)
    assert "clients received different adapters or settings: c1 not the same as c0" in str(error.value)
    assert not [m for m in grid.up if m.metadata.message_type == "query.mask" and m.has_content()]


def test_the_hash_is_of_the_numbers_and_not_of_their_order_or_of_the_ledger():
    one = Instruction(
        "r", {"weights": "w"}, 1, 3, False, "train", {"a": torch.ones(2), "b": torch.zeros(1)}, {}, WireConfig(), 0
    )
    same = replace(one, shared={"b": torch.zeros(1), "a": torch.ones(2)}, ledger=1)
    assert messages.hash_of(one) == messages.hash_of(same) and len(messages.hash_of(one)) == 32
    others = [
        replace(one, shared={"a": torch.ones(2), "c": torch.zeros(1)}),
        replace(one, shared={"a": torch.ones(2, 1), "b": torch.zeros(1)}),
        replace(one, shared={"a": torch.ones(3), "b": torch.zeros(0)}),
        replace(one, shared={"a": torch.ones(2), "b": -torch.zeros(1)}),
        replace(one, shared={"a": torch.ones(2)}, extras={"b": torch.zeros(1)}),
        replace(one, run="s"),
        replace(one, round=2),
        replace(one, wire=WireConfig(format="int8")),
    ]
    assert len({messages.hash_of(each) for each in (one, *others)}) == 1 + len(others)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9), st.sampled_from(FORMATS))
def test_what_is_decoded_from_the_wire_has_the_servers_hash(numbers, way):
    """Also as Flower sends it between machines."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    identify(1)
    wire = WireConfig(format=way[0], delta=way[1])
    state = {"b": torch.tensor(numbers), "a": torch.tensor([numbers])}
    content = messages.instruction_content(
        messages.to_arrays(state), messages.instruction_config(1, 3), {"x": torch.ones(2)}, wire
    )
    here = Message(content, 1, "train")
    there = Message(recorddict_from_proto(recorddict_to_proto(RecordDict(dict(content)))), 1, "train")
    found = [messages.hash_of(messages.read_instruction(message)) for message in (here, there)]
    assert found[0] == found[1]
    assert np.isfinite(messages.read_instruction(there).shared["a"].numpy()).all()
