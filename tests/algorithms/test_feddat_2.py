"""FedDAT-2 by hand: which route a step trains, what moves, how answers are mixed, and how the weight is chosen."""

from math import exp, inf, log

import pytest
import torch
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.feddat_2 import WEIGHT, chosen, is_shared, mixed

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


def test_probabilities_are_mixed():
    """Probabilities ¼ (personal) and ¾ (shared) of the first class at w = 0.2 give 0.2 · ¼ + 0.8 · ¾ = 0.65."""
    personal, shared = torch.tensor([[1.0, 3.0]]).log() + 5, torch.tensor([[3.0, 1.0]]).log()
    torch.testing.assert_close(mixed(personal, shared, 0.2).exp(), torch.tensor([[0.65, 0.35]]))
    assert mixed(personal, shared, 1.0) is personal and mixed(personal, shared, 0.0) is shared


def test_answers_that_one_route_has_not_considered():
    nothing = torch.tensor([[-inf, -inf]])
    one, other = torch.tensor([[0.0, -inf]]), torch.tensor([[-inf, -2.0]])
    torch.testing.assert_close(mixed(one, other, 0.7).exp(), torch.tensor([[0.7, 0.3]]))
    assert mixed(nothing, other, 0.7).argmax().item() == 1
    assert torch.equal(mixed(nothing, nothing, 0.7), nothing), "it answers nothing, and is no NaN"


def test_the_weight_is_where_neighbours_are_good_too():
    assert chosen([0.5] * 11) == 0.5, "nothing to choose by"
    assert chosen([0.9] + [0.5] * 10) == 0.0, "two at an end: 0.7 against 0.63"
    assert chosen([0.2, 0.2, 0.8, 0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.2]) == 0.8, "not the lonely best"


class WithValidation(ScalarLearner):
    """Two batches of one question each; the personal route answers both correctly, the shared route only the first."""

    def held_out(self):
        for self.batch in range(2):
            yield

    def answers(self, route, head="main"):
        right = route != "global" or self.batch == 0
        return torch.tensor([[3.0, 0.0]] if right else [[0.0, 6.0]])

    def scores(self, answers):
        return (answers.argmax(dim=1) == 0).float()


def test_the_weight_is_chosen_on_validation_data():
    """On the second question p_p = 0.953 and p_s = 0.002, so the mixture is right for w from 0.6 on.

    0.7 is the smallest of these weights whose neighbours are right, too.
    """
    now, learner = at(0), WithValidation()
    METHOD.prepare(learner, now)
    assert now.state[WEIGHT].item() == pytest.approx(0.7)
    learner.batch = 1
    assert METHOD.answer(learner, "mixed", now).argmax().item() == 0
    assert METHOD.answer(learner, "global", now).argmax().item() == 1


def test_without_validation_data_half_and_half():
    class Without(WithValidation):
        def held_out(self):
            return iter(())

    now, learner = at(0), Without()
    METHOD.prepare(learner, now)
    learner.batch = 0
    assert WEIGHT not in now.state
    expected = mixed(*[torch.tensor([[3.0, 0.0]])] * 2, 0.5)
    torch.testing.assert_close(METHOD.answer(learner, "mixed", now), expected)


def test_each_route_is_exported_as_its_adapters():
    assert METHOD.mixture("personal", context()) == {"local": 1.0, "global": 1.0}
    assert METHOD.mixture("global", context()) == {"global": 1.0}
    assert METHOD.mixture("mixed", context()) is None
