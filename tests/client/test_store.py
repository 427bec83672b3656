import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat import files
from feddat.client.store import PersonalStore, StoreError


def tensors(value=1.0):
    return {"head/a/weight": torch.full((2, 3), value), "local.x": torch.arange(4)}


@pytest.fixture
def store(tmp_path):
    return PersonalStore(tmp_path, "museum")


names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
arrays = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
shapes = st.lists(st.integers(0, 3), max_size=3)


@settings(max_examples=40)
@given(
    st.dictionaries(names, st.tuples(arrays, shapes, st.integers(0, 99)), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.none() | st.text(max_size=5), max_size=3),
)
def test_what_is_saved_is_loaded(tmp_path_factory, content, meta):
    saved = {
        name: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10).to(dtype)
        for name, (dtype, shape, seed) in content.items()
    }
    store = PersonalStore(tmp_path_factory.mktemp("store"), "a client (1)")
    store.save(3, saved, meta)
    round, loaded, loaded_meta = store.load(before_round=4)
    assert (round, loaded_meta) == (3, meta)
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_empty_store_has_no_state_and_makes_no_folder(store):
    assert store.load(before_round=5) is None
    assert not store.folder.exists()


def test_newest_two_are_kept_and_the_one_before_the_round_is_loaded(store):
    for round in (1, 2, 5):
        store.save(round, tensors(round))
    assert store.rounds() == [2, 5]
    assert store.load(before_round=6)[0] == 5
    assert store.load(before_round=5)[0] == 2
    assert store.load(before_round=3)[1]["head/a/weight"][0, 0] == 2.0


def test_saving_again_after_a_rewind_drops_later_rounds(store):
    for round in (4, 5):
        store.save(round, tensors(round))
    store.save(4, tensors(40.0))
    assert store.rounds() == [4]
    assert store.load(before_round=9)[1]["head/a/weight"][0, 0] == 40.0


def test_a_state_dropped_before_the_asked_round_is_an_error_not_a_fresh_start(store):
    for round, previous in ((4, 3), (5, 4)):
        store.save(round, tensors(), {"previous": previous})
    with pytest.raises(StoreError, match=r"client museum: personal state before round 3 is gone.*4, 5"):
        store.load(before_round=3)


def test_a_client_whose_first_round_is_repeated_starts_fresh(store):
    store.save(4, tensors(), {"previous": None})
    assert store.load(before_round=4) is None


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "header only", "other round"])
def test_a_damaged_file_is_skipped_with_a_warning(store, caplog, damage):
    store.save(1, tensors(1.0))
    store.save(2, tensors(2.0))
    path = store.folder / "round-0002.safetensors"
    content = path.read_bytes()
    damaged = {
        "truncated": content[: len(content) - 7],
        "garbage": b"\xff" * len(content),
        "empty": b"",
        "header only": content[:8],
        "other round": (store.folder / "round-0001.safetensors").read_bytes(),
    }[damage]
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        round, loaded, _ = store.load(before_round=3)
    assert round == 1
    assert loaded["head/a/weight"][0, 0] == 1.0
    assert "client museum" in caplog.text and "round-0002" in caplog.text


def test_a_file_without_our_metadata_is_skipped(store, caplog):
    from safetensors.torch import save_file

    store.save(1, tensors())
    save_file({"x": torch.zeros(1)}, store.folder / "round-0002.safetensors")
    with caplog.at_level(logging.WARNING):
        assert store.load(before_round=3)[0] == 1
    assert "round-0002" in caplog.text


def test_a_kill_between_write_and_rename_leaves_the_previous_state(store, monkeypatch):
    store.save(1, tensors(1.0))

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", killed)  # a killed process does not tidy up
        with pytest.raises(Killed):
            store.save(2, tensors(2.0))
    left = [p.name for p in store.folder.iterdir() if p.name.endswith(".tmp")]
    assert len(left) == 1
    assert store.load(before_round=3)[0] == 1
    store.save(2, tensors(2.0))
    assert sorted(p.name for p in store.folder.glob("round-*")) == ["round-0001.safetensors", "round-0002.safetensors"]


def test_a_full_disk_is_a_clear_error_and_keeps_the_previous_state(store, monkeypatch):
    store.save(1, tensors(1.0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(StoreError, match=r"client museum: .*round-0002.*No space left.*previous state is intact"):
            store.save(2, tensors(2.0))
    assert [p.name for p in store.folder.glob("round-*")] == ["round-0001.safetensors"]
    assert store.load(before_round=3)[1]["head/a/weight"][0, 0] == 1.0


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "museum").write_text("in the way")
    with pytest.raises(StoreError, match="client museum"):
        PersonalStore(tmp_path, "museum").save(1, tensors())


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "c:d"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(StoreError, match="expected letters, digits, spaces and signs"):
        PersonalStore(tmp_path, name)


def test_two_labels_and_two_clients_do_not_meet(tmp_path):
    a, b = PersonalStore(tmp_path, "a"), PersonalStore(tmp_path, "b")
    final = PersonalStore(tmp_path, "a", label="personal")
    a.save(1, tensors(1.0))
    b.save(1, tensors(2.0))
    final.save(1, tensors(3.0))
    assert [s.load(2)[1]["head/a/weight"][0, 0].item() for s in (a, b, final)] == [1.0, 2.0, 3.0]
    a.save(2, tensors())
    a.save(3, tensors())
    assert final.rounds() == [1]
