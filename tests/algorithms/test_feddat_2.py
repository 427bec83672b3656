"""FedDAT-2 by hand: which route a step trains, and what moves."""

from math import exp, log

import pytest
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.feddat_2 import is_shared

METHOD = ALGORITHMS["feddat-2"]


def slope(z):
    """Return d/dz of the task loss for logits (z, 0), where the first class is correct."""
    return 1 / (1 + exp(-z)) - 1


def at(step, round=1, steps=2):
    now = context(round=round)
    now.step, now.steps = step, steps
    return now


def test_the_shared_step_is_fedavgs():
    learner, fedavg = ScalarLearner(), ScalarLearner()
    METHOD.step(learner, at(0))
    ALGORITHMS["fedavg"].step(fedavg, at(0))
    assert learner.p["global"].item() == fedavg.p["global"].item()
    assert learner.p["head.global"].item() == fedavg.p["head"].item()
    assert learner.moved == [{"global", "head.global"}]


def test_the_personal_step_moves_both_adapters():
    s, c, h = START["global"], START["local"], START["head"]
    both = c + s
    g = slope(h * both)
    learner = ScalarLearner()
    metrics = METHOD.step(learner, at(1))
    expected = {"global": s - LR * g * h, "local": c - LR * g * h, "head": h - LR * g * both}
    assert learner.values() == pytest.approx(expected | {"anchor": START["anchor"]}, abs=1e-12)
    assert learner.p["head.global"].item() == h
    assert metrics["loss"].item() == pytest.approx(log(1 + exp(-h * both)))


def test_every_second_step_is_shared_from_round_to_round():
    turns = [is_shared(at(step, round, steps=3)) for round in (1, 2, 3) for step in range(3)]
    assert turns == [True, False] * 4 + [True]


def test_one_pass_a_step():
    learner = ScalarLearner()
    for step in range(4):
        METHOD.step(learner, at(step))
    assert len(learner.routes) == 4


def test_each_route_is_exported_as_its_adapters():
    assert METHOD.mixture("personal", context()) == {"local": 1.0, "global": 1.0}
    assert METHOD.mixture("global", context()) == {"global": 1.0}
    assert METHOD.mixture("mixed", context()) is None
