"""Both sides state their version and refuse another one in one line; nothing missing is filled in from defaults.

The server also notices a client whose state is older than the training that it recorded.
"""

import pytest
import torch
from fakes import Adder, Recorder, app_of, federate, shared
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from feddat.app import messages
from feddat.app.checkpoint import ServerState
from feddat.app.grid import client_context, identify
from feddat.app.roster import FederationError
from feddat.app.versions import PROTOCOL, VersionError
from feddat.config import ConfigError, RunConfig
from feddat.experiment.serving.app_config import AppConfig, check_complete, to_flat


class Other(Recorder):
    """A grid on which one side has another version; ``change`` alters the settings in its messages."""

    change = staticmethod(lambda config: None)
    kinds = ("query", "train", "evaluate")

    def send_and_receive(self, messages, *, timeout=None):
        asked = list(messages)
        for message in asked:
            if self.server_side and message.metadata.message_type in self.kinds:
                _change(message, self.change)
        for reply in super().send_and_receive(asked, timeout=timeout):
            if not self.server_side and reply.metadata.src_node_id == 2:
                _change(reply, self.change)
            yield reply


def _change(message, change):
    if "config" in message.content.config_records:
        config = dict(message.content.config_records["config"])
        change(config)
        message.content["config"] = ConfigRecord(config)


def side(server, kinds=("query", "train", "evaluate"), **versions_told):
    def change(config):
        for key in ("feddat", "messages"):
            config.pop(key, None)
        config |= versions_told

    return type("This", (Other,), {"server_side": server, "change": staticmethod(change), "kinds": kinds})


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "an older version (messages without a version)"),
        ({"feddat": "0.0.1", "messages": PROTOCOL - 1}, f"an older version (feddat 0.0.1, messages {PROTOCOL - 1})"),
        ({"feddat": "9.1", "messages": PROTOCOL + 1}, f"a newer version (feddat 9.1, messages {PROTOCOL + 1})"),
        ({"feddat": "9.1\x1b[2J\n" + "x" * 99, "messages": 99}, "a newer version (feddat 9.1"),
    ],
)
def test_each_side_says_which_version_the_other_has(told, words, caplog):
    with pytest.raises(FederationError) as error:
        federate([Adder("ann")], ServerState(shared()), grid_type=side(True, **told))
    line = str(error.value)
    assert f"the server has {words}" in line
    assert "\n" not in line and "\x1b" not in line
    state = ServerState(shared())
    federate([Adder("ann", 2.0), Adder("bob")], state, grid_type=side(False, **told))
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 2.0)), "ann's alone"
    found = [record.getMessage() for record in caplog.records if f"it has {words}" in record.getMessage()]
    assert found and all("\n" not in line and "node 2" in line for line in found)


def test_a_client_of_another_version_does_nothing_in_the_middle_of_a_run():
    ann = Adder("ann")
    with pytest.raises(FederationError, match="the server has a newer version"):
        federate([ann], ServerState(shared()), grid_type=side(True, ("train",), feddat="9", messages=9))
    assert ann.turns == []


@pytest.mark.parametrize("key", sorted(messages.INSTRUCTED))
def test_no_key_of_an_instruction_is_filled_from_the_clients_defaults(key):
    ann, config = Adder("ann"), dict(messages.instruction_config(1, 1))
    del config[key]
    identify(1)
    content = RecordDict({"shared": messages.to_arrays(shared()), "config": ConfigRecord(config)})
    message = Message(content, 1, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "1"
    error = VersionError if key == "messages" else messages.InstructionError
    with pytest.raises(error, match=rf"instruction's {key} is missing|without a version|older version"):
        app_of(ann)(message, client_context(1, "ann", 1))
    assert ann.turns == []


def test_no_setting_of_a_run_is_filled_from_the_clients_defaults():
    flat = to_flat(AppConfig(RunConfig(benchmark="mini/domain")))
    check_complete(flat)
    for key in ("train.lr", "wire.format", "algorithm.alpha", "seed", "adapter.sites"):
        with pytest.raises(
            ConfigError, match=rf"^{key}: missing in the run's settings; the server has another version"
        ):
            check_complete({k: value for k, value in flat.items() if k != key})


# A client whose state is older than the server's record of its training.


class Restored(Adder):
    """A client whose disk is restored, before round 3, to what it was after round 1."""

    def kept(self):
        newest = super().kept()
        return 1 if newest == 2 else newest


def test_an_old_backup_is_noticed_in_one_line_and_the_run_goes_on(caplog):
    state = ServerState(shared())
    federate([Adder("ann"), Restored("bob", 3.0)], state, rounds=3, every=3)
    assert state.trained == {"ann": 3, "bob": 3}
    told = [record for record in caplog.records if "restored from an older backup?" in record.getMessage()]
    (line,) = {record.getMessage() for record in told}
    assert line == (
        "client bob: its newest state is from round 1, but the server has its training of round 2: restored "
        "from an older backup? It continues from the state it has"
    )
    assert told[0].event == {"event": "rollback", "client": "bob", "kept": 1, "ledger": 2, "round": 3}
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 6.0))


def test_a_client_may_refuse_to_go_on_from_an_old_backup(caplog):
    bob, state = Restored("bob", 3.0), ServerState(shared())
    bob.refuses_old_state = True
    federate([Adder("ann", 1.0), bob], state, rounds=3, every=3)
    assert [turn[:2] for turn in bob.turns if turn[0] == "fit"] == [("fit", 1), ("fit", 2)]
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 2.0 + 2.0 + 1.0))
    assert "client bob failed: OldStateError: its newest state is from round 1" in caplog.text


def test_a_resumed_run_knows_who_had_trained(caplog):
    state = ServerState(shared(), round=2, trained={"ann": 2, "bob": 1})
    federate([Adder("ann"), Adder("bob")], state, rounds=3)
    assert "client ann has the state of round 0, but it trained in round 2" in caplog.text
    assert "client bob: it has no state, but the server has its training of round 1" in caplog.text


def test_a_round_that_begins_again_is_no_old_backup(caplog):
    state = ServerState(shared(), round=1, trained={"ann": 1})
    ann = Adder("ann")
    ann.turns = [("fit", 1), ("fit", 2)]  # the server was killed before it wrote round 2
    federate([ann], state, rounds=3)
    assert "backup" not in caplog.text and "has the state" not in caplog.text
