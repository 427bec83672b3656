"""Steps of FedDAT and of the single-route methods against closed forms: scalar adapters and head, plain SGD."""

from math import exp, log

import pytest
import torch
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS


def sigmoid(x):
    return 1 / (1 + exp(-x))


def slope(z, teacher, weight, temperature):
    """Return d/dz of (1 - w) * task(z) + w * KL_T(teacher || z) for logits (z, 0), where the first class is correct."""
    return (1 - weight) * (sigmoid(z) - 1) + weight * temperature * (
        sigmoid(z / temperature) - sigmoid(teacher / temperature)
    )


def kl(student, teacher, temperature):
    p, q = sigmoid(teacher / temperature), sigmoid(student / temperature)
    return temperature**2 * (p * log(p / q) + (1 - p) * log((1 - p) / (1 - q)))


def test_alternating_by_hand():
    alpha, beta, t = 0.4, 0.7, 3.0
    s, c, a, h = (START[name] for name in ("global", "local", "anchor", "head"))
    dat = (c + a) / 2
    z_s, z_dat = h * s, h * dat
    g = slope(z_s, z_dat, alpha, t)
    s_new, h_mid = s - LR * g * h, h - LR * g * s
    z_dat_late = h_mid * dat
    g = slope(z_dat_late, z_s, beta, t)
    c_new, h_new = c - LR * g * h_mid / 2, h_mid - LR * g * dat

    learner = ScalarLearner()
    metrics = ALGORITHMS["feddat"].step(learner, context(order="alternating", alpha=alpha, beta=beta, temperature=t))
    assert learner.values() == pytest.approx({"global": s_new, "local": c_new, "anchor": a, "head": h_new}, abs=1e-12)
    assert learner.moved == [{"global", "head"}, {"local", "head"}]
    assert metrics["task_global"].item() == pytest.approx(-log(sigmoid(z_s)))
    assert metrics["task_dat"].item() == pytest.approx(-log(sigmoid(z_dat_late)))
    assert metrics["kl_global"].item() == pytest.approx(kl(z_s, z_dat, t))
    assert metrics["kl_dat"].item() == pytest.approx(kl(z_dat_late, z_s, t))


def test_joint_by_hand():
    alpha, beta, t = 0.4, 0.7, 3.0
    s, c, a, h = (START[name] for name in ("global", "local", "anchor", "head"))
    dat = (c + a) / 2
    z_s, z_dat = h * s, h * dat
    g_s, g_dat = slope(z_s, z_dat, alpha, t), slope(z_dat, z_s, beta, t)
    expected = {
        "global": s - LR * g_s * h,
        "local": c - LR * g_dat * h / 2,
        "anchor": a,
        "head": h - LR * (g_s * s + g_dat * dat),
    }
    learner = ScalarLearner()
    metrics = ALGORITHMS["feddat"].step(learner, context(order="joint", alpha=alpha, beta=beta, temperature=t))
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert learner.moved == [{"global", "local", "head"}]
    total = (1 - alpha) * metrics["task_global"] + alpha * metrics["kl_global"]
    total = total + (1 - beta) * metrics["task_dat"] + beta * metrics["kl_dat"]
    assert metrics["loss"].item() == pytest.approx(total.item())
    assert not any(value.requires_grad for value in metrics.values())


def test_with_separate_heads_each_route_trains_its_own():
    shared, separate = ScalarLearner(), ScalarLearner()
    ALGORITHMS["feddat"].step(shared, context(order="joint"))
    ALGORITHMS["feddat"].step(separate, context(order="joint", heads="separate"))
    moves = [separate.p[name].item() - START["head"] for name in ("head", "head.global")]
    assert sum(moves) == pytest.approx(shared.p["head"].item() - START["head"], abs=1e-12)
    assert all(abs(move) > 1e-3 for move in moves)
    assert separate.values()["local"] == pytest.approx(shared.values()["local"], abs=1e-12)
    assert ALGORITHMS["feddat"].heads(context(heads="separate").config) == {"global": "global"}


def test_an_adapter_rests_in_the_other_half_step_despite_momentum_and_decay():
    learner = ScalarLearner(torch.optim.AdamW, weight_decay=0.5)
    for _ in range(3):
        ALGORITHMS["feddat"].step(learner, context())
    assert learner.moved == [{"global", "head"}, {"local", "head"}] * 3


def test_ramp_scales_both_weights():
    early, plain = ScalarLearner(), ScalarLearner()
    ALGORITHMS["feddat"].step(early, context(round=2, ramp_rounds=4, alpha=0.4, beta=0.6))
    weight = exp(-5 * 0.25)
    ALGORITHMS["feddat"].step(plain, context(alpha=0.4 * weight, beta=0.6 * weight))
    assert early.values() == pytest.approx(plain.values(), abs=1e-14)


@pytest.mark.parametrize(
    ("name", "route", "trained"),
    [
        ("fedavg", "global", "global"),
        ("central", "global", "global"),
        ("local", "local", "local"),
        ("head", "none", None),
    ],
)
def test_single_route_methods_by_hand(name, route, trained):
    h = START["head"]
    feature = START[trained] if trained else 1.0
    g = sigmoid(h * feature) - 1
    expected = START | {"head": h - LR * g * feature}
    if trained:
        expected[trained] = START[trained] - LR * g * h
    learner = ScalarLearner()
    metrics = ALGORITHMS[name].step(learner, context())
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert learner.routes == [route]
    assert set(metrics) == {"loss"}


def test_the_table_of_methods():
    table = {name: (a.trains, a.communicates, a.centralised, a.routes) for name, a in ALGORITHMS.items()}
    assert table == {
        "feddat": (("global", "local"), True, False, ("dat", "local", "global")),
        "feddat-2": (("global", "local"), True, False, ("mixed", "personal", "global")),
        "fedavg": (("global",), True, False, ("global",)),
        "fedavg-local": (("global", "local"), True, False, ("mixed", "local", "global")),
        "fedprox": (("global",), True, False, ("global",)),
        "scaffold": (("global",), True, False, ("global",)),
        "feddyn": (("global",), True, False, ("global",)),
        "moon": (("global",), True, False, ("global",)),
        "ditto": (("global", "local"), True, False, ("local", "global")),
        "apfl": (("global", "local"), True, False, ("mixed", "local", "global")),
        "pfedme": (("local",), True, False, ("local", "global")),
        "local": (("local",), False, False, ("local",)),
        "central": (("global",), False, True, ("global",)),
        "head": ((), False, False, ("none",)),
        "fedrep": (("global",), True, False, ("global",)),
        "fedper": (("global",), True, False, ("global",)),
        "feddpa": (("global", "local"), True, False, ("mixed", "local", "global")),
        "fedalt": (("local",), True, False, ("mixed",)),
        "fedsa-lora": (("global",), True, False, ("global",)),
        "fedex-lora": (("global",), True, False, ("global",)),
        "ffa-lora": (("global",), True, False, ("global",)),
        "lora-fair": (("global",), True, False, ("global",)),
        "fedmosaic": (("local",), True, False, ("mixed",)),
        "fedlease": (("global",), True, False, ("mixed",)),
        "hilora": (("global", "local"), True, False, ("tiers", "global")),
        "pfedmma": (("global",), True, False, ("global",)),
    }
