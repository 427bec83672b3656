"""Hashes of clients' data: what changes them, what does not, and how much of large data is read."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feddat.data import digest
from feddat.data.cache import EncodedImage
from feddat.data.digest import data_hashes
from feddat.example import ClientData, Example


def example(number, image, **values):
    return replace(Example(str(number), (image,), f"question {number}", answers={"yes": 1.0, "no": 0.3}), **values)


def client(train=(), test=(), name="ann"):
    return ClientData(name, "vqa", tuple(train), (), tuple(test), ("yes", "no"))


@pytest.fixture
def files(tmp_path):
    """Twenty files of 100 bytes each."""
    for number in range(20):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 100)
    return [tmp_path / f"{number}.bin" for number in range(20)]


def hashes(files):
    return data_hashes([client([example(n, file) for n, file in enumerate(files)])])


def differing(one, other):
    assert one.keys() == other.keys()
    return {key for key in one if one[key] != other[key]}


PICTURE = np.zeros((2, 3, 3), np.uint8)
BASE = example(0, PICTURE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, text="question 0 ?"),
        replace(BASE, id="1"),
        replace(BASE, answers={"yes": 1.0, "no": 0.6}),
        replace(BASE, answers={"yes": 1.0}),
        replace(BASE, label=1),
        replace(BASE, choices=("a", "b")),
        replace(BASE, images=(PICTURE, PICTURE)),
    ],
)
def test_what_is_asked_counts(changed):
    found = differing(data_hashes([client([BASE])]), data_hashes([client([changed])]))
    assert found == {"client ann: train questions"}


@pytest.mark.parametrize("other", [PICTURE + 1, PICTURE.reshape(3, 2, 3), b"\0" * 18, PICTURE[:1]])
def test_pictures_in_memory_count(other):
    found = differing(data_hashes([client([BASE])]), data_hashes([client([replace(BASE, images=(other,))])]))
    assert found == {"client ann: train images"}


def test_what_does_not_count():
    first = data_hashes([client([BASE])])
    shown = replace(BASE, meta={"topic": "art"}, answers={"no": 0.3, "yes": 1.0}, images=(PICTURE.copy(),))
    assert data_hashes([client([shown])]) == first


def test_order_counts(files):
    ahead = [example(0, files[0]), example(1, files[1])]
    assert differing(data_hashes([client(ahead)]), data_hashes([client(ahead[::-1])]))


def test_each_client_and_split_has_its_own(files):
    two = [client([example(0, files[0])], [example(1, files[1])]), client([example(0, files[2])], name="bob")]
    before = data_hashes(two)
    assert len(before) == 2 * 3 * 2
    files[1].write_bytes(b"x" * 100)
    assert differing(before, data_hashes(two)) == {"client ann: test images"}


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\xff"),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
    ],
)
def test_one_byte_of_one_file_counts_where_all_are_read(files, change):
    before = hashes(files)
    change(files[7])
    assert differing(before, hashes(files)) == {"client ann: train images"}


def test_a_copy_is_the_same_data(files, tmp_path):
    copies = [Path(shutil.copyfile(file, tmp_path / "other" / file.name)) for file in files if make(tmp_path / "other")]
    assert hashes(copies) == hashes(files)


def make(folder):
    folder.mkdir(exist_ok=True)
    return True


def test_of_large_data_a_sample_is_read_and_every_size(files, monkeypatch):
    monkeypatch.setattr(digest, "LEAST", 500)
    monkeypatch.setattr(digest, "MOST", 500)
    read = []
    content = digest._content
    monkeypatch.setattr(digest, "_content", lambda image: read.append(image) or content(image))
    before = hashes(files)
    assert len(read) == 5
    assert hashes(files) == before
    seen = set(read)
    unseen = next(file for file in files if file not in seen)
    unseen.write_bytes(b"y" * 100)
    assert hashes(files) == before, "what the module says it misses"
    unseen.write_bytes(b"y" * 99)
    assert differing(before, hashes(files)) == {"client ann: train images"}
    unseen.write_bytes(b"y" * 100)
    next(iter(seen)).write_bytes(b"z" * 100)
    assert differing(before, hashes(files)) == {"client ann: train images"}


def test_what_is_encoded_on_disk_is_read_like_a_file_and_what_is_generated_whole(monkeypatch):
    monkeypatch.setattr(digest, "LEAST", 0)
    monkeypatch.setattr(digest, "MOST", 0)
    read = []
    monkeypatch.setattr(digest, "_content", lambda image: read.append(image) or b"")
    encoded = EncodedImage.of(np.zeros((3, 2, 2), np.uint8), "encoder")
    data_hashes([client([example(0, encoded), example(1, PICTURE), example(2, b"bytes")])])
    assert [type(image) for image in read if not isinstance(image, bytes)] == [np.ndarray]
    assert [image for image in read if isinstance(image, bytes)] == [b"bytes"]


def test_tests_that_clients_share_are_read_once(files, monkeypatch):
    read = []
    monkeypatch.setattr(digest, "_content", lambda image: read.append(image) or b"")
    shared = tuple(example(n, file) for n, file in enumerate(files))
    found = data_hashes([client(test=()), *(replace(client(name=str(n)), test=shared) for n in range(50))])
    assert len(read) == len(files)
    assert len({found[f"client {n}: test images"] for n in range(50)}) == 1


def test_the_budget_is_for_all_clients_together(files, monkeypatch):
    monkeypatch.setattr(digest, "BUDGET", 3000)
    monkeypatch.setattr(digest, "LEAST", 100)
    read = []
    monkeypatch.setattr(digest, "_content", lambda image: read.append(image) or b"")
    clients = [client([example(n, file) for n, file in enumerate(files)], name=str(number)) for number in range(10)]
    data_hashes(clients)
    assert sum(100 for _ in read) <= 3000 + 100
