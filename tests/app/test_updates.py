"""Statistics of one round's updates, checked by hand and, for random updates, against the mean over all pairs."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feddat.app.updates import UpdateStatistics

SENT = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[2.0]])}


def statistics(*updates: tuple[float, float, float]) -> dict[str, float]:
    found = UpdateStatistics()
    for x, y, z in updates:
        returned = {"a": np.array([1 + x, 1 + y], np.float32), "b": np.array([[2 + z]], np.float32)}
        found.add(returned, SENT)
    return found.values()


def test_norm_is_the_mean_and_agreement_the_cosine_of_two():
    assert statistics((3, 4, 0), (0, 0, 1)) == pytest.approx({"norm": 3.0, "agreement": 0.0}, abs=1e-6)
    assert statistics((3, 4, 0), (6, 8, 0)) == pytest.approx({"norm": 7.5, "agreement": 1.0}, abs=1e-6)
    assert statistics((1, 0, 0), (-2, 0, 0)) == pytest.approx({"norm": 1.5, "agreement": -1.0}, abs=1e-6)


def test_one_update_has_no_agreement_and_none_have_no_statistics():
    assert statistics((3, 4, 0)) == pytest.approx({"norm": 5.0})
    assert statistics() == {}
    empty = UpdateStatistics()
    empty.add({}, {})  # an update of a method that sends nothing
    assert empty.values() == {}


def test_an_update_of_nothing_has_no_direction():
    assert statistics((0, 0, 0), (3, 4, 0)) == pytest.approx({"norm": 2.5})
    assert statistics((0, 0, 0), (3, 4, 0), (3, 4, 0)) == pytest.approx({"norm": 10 / 3, "agreement": 1.0})


@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 3).filter(any), min_size=2, max_size=6))
def test_agreement_is_the_mean_over_pairs(updates):
    vectors = np.array(updates, float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [float(one @ other) for one, other in itertools.combinations(unit, 2)]
    assert statistics(*updates)["agreement"] == pytest.approx(np.mean(pairs), abs=1e-5)
