"""Mixtures of two routes' answers by hand: probabilities, the choice of the weight, and the methods that use it."""

from math import exp, inf, log
from types import SimpleNamespace

import pytest
import torch
from scalars import ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.feddat import MixedFedDAT
from feddat.algorithms.mixed_answers import WEIGHT, best_weight, mixed
from feddat.client.answering import Answering

#: Method -> its personal route, and the options with which both routes have a head of their own.
METHODS = {
    "feddat-2": (ALGORITHMS["feddat-2"], "personal", {}),
    "fedavg-local": (ALGORITHMS["fedavg-local"], "local", {}),
    "feddat": (MixedFedDAT(), "dat", {}),
    "feddat, separate heads": (MixedFedDAT(), "dat", {"heads": "separate"}),
}


def test_probabilities_are_mixed():
    """Probabilities ¼ (first) and ¾ (second) of the first class at w = 0.2 give 0.2 · ¼ + 0.8 · ¾ = 0.65."""
    first, second = torch.tensor([[1.0, 3.0]]).log() + 5, torch.tensor([[3.0, 1.0]]).log()
    torch.testing.assert_close(mixed(first, second, 0.2).exp(), torch.tensor([[0.65, 0.35]]))
    assert mixed(first, second, 1.0) is first and mixed(first, second, 0.0) is second


def test_answers_that_one_route_has_not_considered():
    nothing = torch.tensor([[-inf, -inf]])
    one, other = torch.tensor([[0.0, -inf]]), torch.tensor([[-inf, -2.0]])
    torch.testing.assert_close(mixed(one, other, 0.7).exp(), torch.tensor([[0.7, 0.3 * exp(-2)]]))
    assert mixed(nothing, other, 0.7).argmax().item() == 1
    assert torch.equal(mixed(nothing, nothing, 0.7), nothing), "it answers nothing, and is no NaN"


def test_written_answers_are_mixed_by_their_likelihoods():
    """0.4 · 0.9 beats 0.6 · 0.05, although each route has written just one answer."""
    one, other = torch.tensor([[0.9, 0.0]]).log(), torch.tensor([[0.0, 0.05]]).log()
    torch.testing.assert_close(mixed(one, other, 0.4).exp(), torch.tensor([[0.36, 0.03]]))


WRITTEN = [
    (0.4, ("blue", "grey"), ("red", 0.36)),
    (0.0, ("blue", "grey"), ("green", 0.05)),
    (1.0, ("blue", "grey"), ("red", 0.9)),
    (0.4, ("blue", "green"), ("green", 0.03)),  # the only answer of the list; scores know no other
    (0.4, ("red", "green"), ("red", 0.36)),
]


@pytest.mark.parametrize(("weight", "classes", "expected"), WRITTEN)
def test_a_free_answer_is_the_mixtures_not_the_last_routes(weight, classes, expected):
    written = {"personal": [("red", 0.9)], "global": [("green", 0.05)]}
    member = SimpleNamespace(
        generation=SimpleNamespace(written=[]),
        task=SimpleNamespace(classes=classes),
        encode_unseen=lambda examples: None,
        inputs=lambda views, indices: {},
    )

    class Writing:
        def take(self, *batch):
            pass

        def answers(self, route, head="main"):
            ((text, probability),) = written["global" if route == "global" else "personal"]
            member.generation.written = [(text, probability)]
            return torch.tensor([[log(probability) if text == each else -inf for each in classes]])

    now = context()
    now.state[WEIGHT] = torch.tensor(weight)
    found = Answering(Writing(), ALGORITHMS["feddat-2"], now, 8).likeliest(member, [None], "mixed", 1)
    ((text, probability),) = found[0]
    assert (text, pytest.approx(probability)) == expected
    if expected[0] in classes:
        assert classes[ALGORITHMS["feddat-2"].answer(Writing(), "mixed", now).argmax()] == text


def test_the_weight_is_where_neighbours_are_good_too():
    assert best_weight([0.5] * 11) == 0.5, "nothing to choose by"
    assert best_weight([0.9] + [0.5] * 10) == 0.0, "two at an end: 0.7 against 0.63"
    assert best_weight([0.2, 0.2, 0.8, 0.2, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.2]) == 0.8, "not the lonely best"


class WithValidation(ScalarLearner):
    """Two batches of one question each; the personal route answers both correctly, the global route only the first."""

    heads = None

    def held_out(self):
        for self.batch in range(2):
            yield

    def answers(self, route, head="main"):
        self.heads = (self.heads or {}) | {route: head}
        right = route != "global" or self.batch == 0
        return torch.tensor([[3.0, 0.0]] if right else [[0.0, 6.0]])

    def scores(self, answers):
        return (answers.argmax(dim=1) == 0).float()


class WithoutValidation(WithValidation):
    def held_out(self):
        self.batch = 0
        return iter(())


@pytest.mark.parametrize("name", METHODS)
def test_the_weight_is_chosen_on_validation_data(name):
    """On the second question p_personal = 0.953 and p_global = 0.002, so the mixture is right for w from 0.6 on.

    0.7 is the smallest of these weights whose neighbours are right, too.
    """
    method, personal, options = METHODS[name]
    now, learner = context(**options), WithValidation()
    method.prepare(learner, now)
    assert now.state[WEIGHT].item() == pytest.approx(0.7)
    learner.batch = 1
    assert method.answer(learner, method.routes[0], now).argmax().item() == 0
    assert method.answer(learner, personal, now).argmax().item() == 0
    assert method.answer(learner, "global", now).argmax().item() == 1
    adapters = "sum" if personal == "personal" else personal
    assert learner.heads == {adapters: "main", "global": "main" if name == "feddat" else "global"}


@pytest.mark.parametrize("name", METHODS)
def test_without_validation_data_half_and_half(name):
    method, _, options = METHODS[name]
    now, learner = context(**options), WithoutValidation()
    method.prepare(learner, now)
    assert WEIGHT not in now.state
    learner.batch = 1
    expected = mixed(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 6.0]]), 0.5)
    torch.testing.assert_close(method.answer(learner, "mixed", now), expected)


def test_only_feddats_answers_change():
    feddat, other = ALGORITHMS["feddat"], MixedFedDAT()
    one, two = ScalarLearner(), ScalarLearner()
    assert feddat.step(one, context()) == other.step(two, context())
    assert one.values() == two.values()
    assert other.mixture("mixed", context()) is None, "no single adapter gives these answers"
    assert other.mixture("dat", context()) == feddat.mixture("dat", context())


def test_side_by_side_is_fedavg_and_local_training():
    both, fedavg, local = ScalarLearner(), ScalarLearner(), ScalarLearner()
    metrics = ALGORITHMS["fedavg-local"].step(both, context())
    told = [ALGORITHMS[name].step(learner, context()) for name, learner in (("fedavg", fedavg), ("local", local))]
    assert (both.p["global"], both.p["head.global"]) == (fedavg.p["global"], fedavg.p["head"])
    assert (both.p["local"], both.p["head"]) == (local.p["local"], local.p["head"])
    assert (metrics["task_global"], metrics["task_local"]) == (told[0]["loss"], told[1]["loss"])
