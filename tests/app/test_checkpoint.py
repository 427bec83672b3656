import errno
import json
import os

import pytest
import torch
from fakes import shared
from safetensors.torch import save_file

from feddat import files
from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState


def state_of(round: int) -> ServerState:
    state = ServerState({"b": torch.randn(2, 3), "a": torch.randn(4)}, round=round, refused=1)
    state.bytes["train"]["down"] = 123
    state.seconds["other"] = 1 / 3
    return state


def test_a_state_comes_back_exactly(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", "h")
    state = state_of(3)
    store.save(state)
    found = store.latest()
    assert list(found.shared) == ["b", "a"]  # in the same order
    assert all(torch.equal(found.shared[key], state.shared[key]) for key in state.shared)
    assert (found.round, found.refused, found.bytes, found.seconds) == (3, 1, state.bytes, state.seconds)


def test_nothing_shared_can_be_stored(tmp_path):
    Checkpoints(tmp_path, "h").save(ServerState({}, round=1))
    assert Checkpoints(tmp_path, "h").latest().shared == {}


def test_the_newest_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path, "h")
    for round in range(8, 13):
        store.save(state_of(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00011", "round-00012"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * len(data)]
)
@pytest.mark.parametrize("name", ["shared.safetensors", "state.safetensors"])
def test_a_damaged_file_is_skipped_with_a_warning(tmp_path, caplog, name, damage):
    store = Checkpoints(tmp_path, "h")
    store.save(state_of(1))
    path = store.save(state_of(2))
    (path / name).write_bytes(damage((path / name).read_bytes()))
    assert store.latest().round == 1
    assert path.name in caplog.text


def test_a_missing_file_is_damage_too(tmp_path):
    store = Checkpoints(tmp_path, "h")
    store.save(state_of(1))
    (store.save(state_of(2)) / "shared.safetensors").unlink()
    assert store.latest().round == 1


def test_a_file_of_an_earlier_version_is_read_and_in_time_replaced(tmp_path):
    """Earlier versions wrote one file per round: tensors under their own names, the rest as JSON in its metadata."""
    tmp_path = tmp_path / "checkpoints"
    tmp_path.mkdir()
    numbers = {
        "round": 1,
        "bytes": {"train": {"up": 1, "down": 2}},
        "seconds": {"other": 3.0},
        "failed": 4,
        "refused": 5,
    }
    metadata = {
        "state": json.dumps(numbers),
        "keys": json.dumps(["b", "rule/momentum", "residual/b"]),
        "config_hash": "h",
    }
    tensors = {"b": torch.ones(2, 3), "rule/momentum": torch.ones(2), "residual/b": torch.full((2, 3), 0.5)}
    save_file(tensors, tmp_path / "round-00001.safetensors", metadata=metadata)
    store = Checkpoints(tmp_path, "h")
    found = store.latest()
    assert (found.round, found.bytes, found.failed, found.refused) == (1, numbers["bytes"], 4, 5)
    assert [list(part) for part in (found.shared, found.rule, found.residual)] == [["b"], ["momentum"], ["b"]]
    assert torch.equal(found.residual["b"], tensors["residual/b"])
    for round in (2, 3):
        store.save(state_of(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00002", "round-00003"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    Checkpoints(tmp_path, "one").save(state_of(1))
    with pytest.raises(CheckpointError, match="written by a run with other settings"):
        Checkpoints(tmp_path, "two").latest()


def test_a_full_disk_is_named_and_older_checkpoints_stay(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, "h")
    store.save(state_of(1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"round-00002: No space left on device"):
        store.save(state_of(2))
    assert store.latest().round == 1
    assert [path.name for path in tmp_path.iterdir()] == ["round-00001"]


def test_shared_is_not_changed_by_saving(tmp_path):
    state = ServerState(shared(1.5), round=1)
    Checkpoints(tmp_path, "h").save(state)
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 1.5))
