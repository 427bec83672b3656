"""Splitting a client's examples: each goes to exactly one part, sizes are even, and the seed decides the parts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddat.data.partition import split_clients
from feddat.example import ClientData, DataError, Example


def client(name: str, size: int) -> ClientData:
    picture = np.zeros((1, 1, 3), np.uint8)
    train = tuple(Example(str(i), (picture,), "what ?", {"red": 1.0}) for i in range(size))
    return ClientData(name, "vqa", train, train[:1], train[:2], ("red", "blue"), "a client")


@given(size=st.integers(1, 40), parts=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_example_goes_to_exactly_one_part(size: int, parts: int, seed: int) -> None:
    whole = client("ann", size)
    if parts > size:
        with pytest.raises(DataError, match=f"client ann: cannot split {size} training examples into {parts} parts"):
            split_clients([whole], parts, seed)
        return
    split = split_clients([whole], parts, seed)
    assert Counter(e.id for part in split for e in part.train) == Counter(e.id for e in whole.train)
    sizes = [len(part.train) for part in split]
    assert len(sizes) == parts and max(sizes) - min(sizes) <= 1
    for part in split:
        assert (part.test, part.validation, part.answers, part.task) == (
            *(whole.test, whole.validation, whole.answers, whole.task),
        )
    again = split_clients([whole], parts, seed)
    assert [[e.id for e in part.train] for part in again] == [[e.id for e in part.train] for part in split]


def test_parts_are_named_after_their_client_and_drawn_by_its_name() -> None:
    split = split_clients([client("ann", 20), client("bob", 20)], 2, 0)
    assert [part.name for part in split] == ["ann-1", "ann-2", "bob-1", "bob-2"]
    ids = [[e.id for e in part.train] for part in split]
    assert ids[0] != ids[2]
    assert ids[0] != [e.id for e in split_clients([client("ann", 20)], 2, 1)[0].train]


def test_one_part_changes_nothing() -> None:
    whole = client("ann", 3)
    assert split_clients([whole], 1, 0) == (whole,)
