"""FedDAT-2 by hand: which route a step trains, and what moves."""

from dataclasses import replace
from itertools import chain
from math import exp, log

import pytest
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.feddat_2 import is_shared
from feddat.config import ConfigError, RunConfig

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


def turns(rounds, steps, batches, state=None):
    """Return which steps are shared in the rounds that a client attends."""
    state, found = {} if state is None else state, []
    for round in rounds:
        now = context(round=round)
        now.steps, now.batches, now.state = steps, batches, state
        found.append([is_shared(at) for at in (replace(now, step=step) for step in range(steps))])
        METHOD.finish(ScalarLearner(), now)
    return found


def test_every_second_step_is_shared_from_round_to_round():
    assert [*chain(*turns((1, 2, 3), steps=3, batches=3))] == [True, False] * 4 + [True]


@pytest.mark.parametrize(("steps", "batches"), [(2, 2), (4, 2), (1, 1), (1, 4), (5, 4), (9, 4), (79, 79), (158, 79)])
def test_both_routes_take_every_place_in_an_epoch(steps, batches):
    """No route always gets the last batch, which is smaller than the others."""
    found = turns(range(1, 5), steps, batches)
    for place in range(min(steps, batches)):
        taken = [shared for turn in found for shared in turn[place::batches]]
        assert abs(2 * sum(taken) - len(taken)) <= 1


def test_a_client_that_attends_every_second_round_trains_both_routes():
    assert [*chain(*turns((1, 3, 5, 7), steps=1, batches=1))] == [True, False, True, False]


def test_a_state_of_an_earlier_version_counts_the_federations_rounds():
    now = context(round=4)
    now.previous = 3
    METHOD.finish(ScalarLearner(), now)
    assert now.state["rounds"].item() == 4


def test_a_shared_fusion_is_refused():
    config = RunConfig().updated({"fusion.kind": "transformer", "fusion.side": "shared"})
    with pytest.raises(ConfigError, match=r"fusion\.side: shared, but feddat-2 adds up two adapters"):
        METHOD.for_run(config, [])


def test_one_pass_a_step():
    learner = ScalarLearner()
    for step in range(4):
        METHOD.step(learner, at(step))
    assert len(learner.routes) == 4


def test_each_route_is_exported_as_its_adapters():
    assert METHOD.mixture("personal", context()) == {"local": 1.0, "global": 1.0}
    assert METHOD.mixture("global", context()) == {"global": 1.0}
    assert METHOD.mixture("mixed", context()) is None
