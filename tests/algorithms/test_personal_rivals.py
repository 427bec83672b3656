"""Ditto, APFL and pFedMe against numbers computed by hand: one scalar per adapter, plain SGD."""

import pytest
import torch
from scalars import LR, START, ScalarLearner, context, slope_of_task

from feddat.algorithms import ALGORITHMS

S, C, A, H = (START[name] for name in ("global", "local", "anchor", "head"))


@pytest.mark.parametrize("name", ["ditto", "apfl"])
def test_the_personal_adapter_starts_from_the_first_received_and_goes_on(name):
    for previous, expected in ((None, S), (2, C)):
        learner, here = ScalarLearner(), context()
        here.previous = previous
        here.state["alpha"] = torch.tensor(0.5)
        ALGORITHMS[name].begin(learner, here)
        assert learner.values()["local"] == expected


def test_ditto_by_hand():
    learner = ScalarLearner()
    metrics = ALGORITHMS["ditto"].step(learner, context(ditto_lambda=0.6))
    g = slope_of_task(H * S)
    s_new, h_mid = S - LR * g * H, H - LR * g * S
    g = slope_of_task(h_mid * C)
    expected = {
        "global": s_new,
        "local": C - LR * (g * h_mid + 0.6 * (C - A)),
        "anchor": A,
        "head": h_mid - LR * g * C,
    }
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert learner.moved == [{"global", "head"}, {"local", "head"}]
    total = metrics["task_global"] + metrics["task_local"] + 0.3 * (C - A) ** 2
    assert metrics["loss"].item() == pytest.approx(total.item())


@pytest.mark.parametrize("name", ["ditto", "apfl", "feddpa"])
def test_separate_heads_do_not_meet(name):
    learner, here = ScalarLearner(), context(heads="separate")
    here.state["alpha"] = torch.tensor(0.5)
    ALGORITHMS[name].step(learner, here)
    assert learner.moved == [{"global", "head.global"}, {"local", "head"}]


def apfl(learner, alpha, **settings):
    here = context(**settings)
    here.previous, here.state["alpha"] = 1, torch.tensor(alpha, dtype=torch.float64)
    ALGORITHMS["apfl"].begin(learner, here)
    metrics = ALGORITHMS["apfl"].step(learner, here)
    ALGORITHMS["apfl"].finish(learner, here)
    return metrics, here.state["alpha"]


def test_apfl_by_hand():
    alpha, learner = 0.3, ScalarLearner()
    metrics, found = apfl(learner, alpha)
    g = slope_of_task(H * S)
    s_new, h_mid = S - LR * g * H, H - LR * g * S
    mixed = alpha * C + (1 - alpha) * s_new
    g = slope_of_task(h_mid * mixed)
    expected = {"global": s_new, "local": C - LR * g * h_mid * alpha, "anchor": A, "head": h_mid - LR * g * mixed}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert learner.moved == [{"global", "head"}, {"local", "head"}]
    assert found.item() == pytest.approx(alpha - LR * g * h_mid * (C - s_new), abs=1e-12)
    assert not found.requires_grad
    assert metrics["alpha"].item() == found.item()


def test_apfls_share_rests_unless_learned_and_stays_within_its_bounds():
    assert apfl(ScalarLearner(), 0.3, apfl_learned=False)[1].item() == 0.3
    assert apfl(ScalarLearner(), 0.001)[1].item() == 0.0  # the step would go below 0: local is worse


def test_apfl_answers_with_the_mixture():
    learner, here = ScalarLearner(), context(apfl_alpha=0.25)
    logits = {route: ALGORITHMS["apfl"].answer(learner, route, here)[0, 0].item() for route in ("mixed", "local")}
    assert logits == pytest.approx({"mixed": H * (0.25 * C + 0.75 * S), "local": H * C})
    here.state["alpha"] = torch.tensor(1.0)
    assert ALGORITHMS["apfl"].answer(learner, "mixed", here)[0, 0].item() == pytest.approx(H * C)


def test_pfedme_by_hand():
    weight, rate = 2.0, 0.05
    learner, here = ScalarLearner(), context(pfedme_lambda=weight, pfedme_steps=2, pfedme_lr=rate)
    ALGORITHMS["pfedme"].begin(learner, here)
    theta, h = S, H
    assert learner.values()["local"] == theta
    metrics = ALGORITHMS["pfedme"].step(learner, here)
    for _ in range(2):
        g = slope_of_task(h * theta)
        theta, h, before = theta - LR * (g * h + weight * (theta - S)), h - LR * g * theta, theta
    expected = {"global": S - rate * weight * (S - theta), "local": theta, "anchor": A, "head": h}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert learner.moved == [{"local", "head"}] * 2
    assert metrics["loss"].item() == pytest.approx(metrics["task"].item() + weight / 2 * (before - S) ** 2)
