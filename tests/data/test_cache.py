"""The store of encoded images and texts returns what was put in, and notices damage."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from feddat.data.cache import ArrayStore, EncodedImage, image_key, shards, text_key, write_shard
from feddat.example import DataError
from feddat.pictures import PictureReader


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


@settings(max_examples=30)
@given(shapes=st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4), max_size=3))
def test_arrays_of_any_shape_come_back(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp("store")
    store = ArrayStore(folder, "me")
    groups = [
        {key(100 * n + i): picture(*shape, seed=i) for i, shape in enumerate(group)} for n, group in enumerate(shapes)
    ]
    for group in groups:
        store.add(group)
    again = ArrayStore(folder, "me")
    for group in groups:
        for name, array in group.items():
            for reader in (store, again):
                assert reader[name].dtype == np.uint8
                assert np.array_equal(reader[name], array)
    assert key(99) not in again
    with pytest.raises(KeyError):
        again[key(99)]


def test_token_ids_come_back(tmp_path):
    ArrayStore(tmp_path, "me").add(
        {text_key("a"): np.array([1, 2, 70000], np.int32), text_key("b"): np.array([], "i4")}
    )
    store = ArrayStore(tmp_path, "me")
    assert store[text_key("a")].tolist() == [1, 2, 70000]
    assert store[text_key("b")].tolist() == []


def test_an_array_is_a_view_of_the_file_and_writing_to_it_leaves_the_file_alone(tmp_path):
    store = ArrayStore(tmp_path, "me")
    store.add({key(1): picture(4, 6)})
    array = store[key(1)]
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    array[:] = 0
    assert np.array_equal(ArrayStore(tmp_path, "me")[key(1)], picture(4, 6))


def test_shards_written_elsewhere_are_found_at_the_next_look(tmp_path):
    one, other = ArrayStore(tmp_path, "me"), ArrayStore(tmp_path, "me")
    one.add({key(1): picture(2, 2)})
    assert key(1) not in other
    other.refresh()
    assert key(1) in other


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_torn_shard_is_passed_over_and_made_again(tmp_path, cut, caplog):
    path = write_shard(tmp_path, "me", {key(1): picture(8, 8)})
    write_shard(tmp_path, "me", {key(2): picture(8, 8)})
    path.write_bytes(path.read_bytes()[:cut])
    store = ArrayStore(tmp_path, "me")
    assert key(1) not in store and key(2) in store
    assert f"{path}: incomplete or damaged shard" in caplog.text
    store.tidy()
    assert not path.exists()
    store.add({key(1): picture(8, 8)})
    caplog.clear()
    assert np.array_equal(ArrayStore(tmp_path, "me")[key(1)], picture(8, 8))
    assert not caplog.records


def test_foreign_files_are_passed_over(tmp_path, caplog):
    write_shard(tmp_path, "another model", {key(1): picture(2, 2)})
    save_file({"keys": np.zeros((1, 16), np.uint8)}, tmp_path / "x.safetensors")
    save_file(
        {
            "keys": np.zeros((1, 16), np.uint8),
            "shapes": np.ones((1, 1), np.int32),
            "data": np.ones(1, np.float64),
        },
        tmp_path / "y.safetensors",
    )
    store = ArrayStore(tmp_path, "me")
    assert key(1) not in store and key(0) not in store
    assert "skipped; written in another format or by another encoder" in caplog.text
    assert len(caplog.records) == 3


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    write_shard(tmp_path, "me", {key(1): picture(2, 2)})
    (tmp_path / ".abc.safetensors.77.tmp").write_bytes(b"half")
    store = ArrayStore(tmp_path, "me")
    store.tidy()
    assert key(1) in store
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, other):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(other))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=r"\.safetensors: No space left on device; other shards are kept"):
        write_shard(tmp_path, "me", {key(1): picture(2, 2)})
    assert not list(tmp_path.iterdir())


def test_shards_hold_every_key_once():
    keys = [key(n) for n in range(150)]
    groups = shards(keys)
    assert [len(group) for group in groups] == [64, 64, 22]
    assert [k for group in groups for k in group] == keys
    assert shards([]) == []


def test_a_changed_file_has_another_key(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"12")
    before = image_key(path)
    assert image_key(path) == before
    os.utime(path, ns=(0, 5))
    touched = image_key(path)
    path.write_bytes(b"123")
    os.utime(path, ns=(0, 5))
    assert len({before, touched, image_key(path)}) == 3
    with pytest.raises(DataError, match=r"image .*nowhere\.png: No such file"):
        image_key(tmp_path / "nowhere.png")


def test_keys_of_pixels_and_bytes_in_memory():
    flat = np.arange(24, dtype=np.uint8)
    assert image_key(flat.reshape(2, 4, 3)) == image_key(flat.copy().reshape(2, 4, 3))
    assert image_key(flat.reshape(2, 4, 3)) != image_key(flat.reshape(4, 2, 3))
    assert image_key(b"a") != image_key(b"b")


def test_an_encoded_image_is_an_image_like_any_other():
    pixels = picture(4, 6)
    image = EncodedImage.of(pixels, "me")
    assert (image.shape, image.encoder) == ((4, 6, 3), "me")
    assert np.array_equal(PictureReader().read(image), pixels.transpose(1, 2, 0))
    assert np.array_equal(image.encoded, pixels)
    assert np.shares_memory(image.encoded, pixels)
    assert image[:2].encoder == ""  # the encoder did not make this part of it
