import errno
import os

import pytest
import torch
from fakes import shared

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
    assert list(found.shared) == ["b", "a"]  # their order too
    assert all(torch.equal(found.shared[key], state.shared[key]) for key in state.shared)
    assert (found.round, found.refused, found.bytes, found.seconds) == (3, 1, state.bytes, state.seconds)


def test_nothing_shared_can_be_stored(tmp_path):
    Checkpoints(tmp_path, "h").save(ServerState({}, round=1))
    assert Checkpoints(tmp_path, "h").latest().shared == {}


def test_the_newest_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path, "h")
    for round in range(8, 13):
        store.save(state_of(round))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00011.safetensors", "round-00012.safetensors"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * len(data)]
)
def test_a_damaged_file_is_skipped_with_a_warning(tmp_path, caplog, damage):
    store = Checkpoints(tmp_path, "h")
    store.save(state_of(1))
    path = store.save(state_of(2))
    path.write_bytes(damage(path.read_bytes()))
    assert store.latest().round == 1
    assert path.name in caplog.text


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
    with pytest.raises(CheckpointError, match=r"round-00002\.safetensors: No space left on device"):
        store.save(state_of(2))
    assert store.latest().round == 1
    assert [path.name for path in tmp_path.iterdir()] == ["round-00001.safetensors"]


def test_shared_is_not_changed_by_saving(tmp_path):
    state = ServerState(shared(1.5), round=1)
    Checkpoints(tmp_path, "h").save(state)
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 1.5))
