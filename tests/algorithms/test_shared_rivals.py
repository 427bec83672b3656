"""FedProx, SCAFFOLD, FedDyn and MOON against numbers computed by hand: one scalar per adapter, plain SGD."""

from math import exp, log

import pytest
import torch
from scalars import LR, START, ScalarLearner, context, slope_of_task

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.moon import contrastive_loss
from feddat.algorithms.proximal import squared_distance
from feddat.algorithms.server import Gathered
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

S, A, H = START["global"], START["anchor"], START["head"]


def test_squared_distance_sums_over_all_entries():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    other = {"b": torch.tensor([[1.0]]), "a": torch.tensor([0.0, 0.0])}
    assert squared_distance(one, other).item() == 1 + 4 + 4


def test_fedprox_by_hand():
    learner = ScalarLearner()
    metrics = ALGORITHMS["fedprox"].step(learner, context(fedprox_mu=0.6))
    g = slope_of_task(H * S)
    expected = START | {"global": S - LR * (g * H + 0.6 * (S - A)), "head": H - LR * g * S}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert metrics["distance"].item() == pytest.approx((S - A) ** 2)
    assert metrics["loss"].item() == pytest.approx(metrics["task"].item() + 0.3 * (S - A) ** 2)


def test_fedprox_without_its_term_is_fedavg():
    plain, prox = ScalarLearner(), ScalarLearner()
    ALGORITHMS["fedavg"].step(plain, context())
    ALGORITHMS["fedprox"].step(prox, context(fedprox_mu=0.0))
    assert plain.values() == prox.values()


def scaffold_round(learner, c, own, steps):
    algorithm = ALGORITHMS["scaffold"]
    here = context()
    here.steps, here.received = steps, {"w": torch.tensor(c, dtype=torch.float64)}
    if own is not None:
        here.state["w"] = torch.tensor(own, dtype=torch.float64)
    algorithm.begin(learner, here)
    for here.step in range(steps):
        algorithm.step(learner, here)
    return algorithm.finish(learner, here)["w"].item(), here.state["w"].item()


def test_scaffold_corrects_the_adapter_and_not_the_head():
    learner = ScalarLearner()
    change, own = scaffold_round(learner, c=0.3, own=0.1, steps=1)
    g = slope_of_task(H * S)
    expected = START | {"global": S - LR * (g * H - 0.1 + 0.3), "head": H - LR * g * S}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert own == pytest.approx(g * H, abs=1e-12)
    assert change == pytest.approx(g * H - 0.1, abs=1e-12)


@pytest.mark.parametrize("own", [None, 0.1])
def test_scaffolds_mean_gradient_is_option_two_under_plain_sgd(own):
    learner, c, steps = ScalarLearner(), 0.3, 4
    _, found = scaffold_round(learner, c, own, steps)
    moved = S - learner.values()["global"]
    assert found == pytest.approx((own or 0.0) - c + moved / (steps * LR), abs=1e-12)


def gathered(shared, replies, clients, **extras):
    return Gathered({"w": torch.tensor([shared])}, {k: torch.tensor([v]) for k, v in extras.items()}, replies, clients)


def test_scaffolds_server_by_hand():
    server, at = ALGORITHMS["scaffold"].server, {"w": torch.tensor([1.0])}
    state = server.start(at)
    assert server.sends(state) == {"w": torch.zeros(1)}
    assert server.expects(at) == {"w": (1,)}
    state, shared = server.finish(
        {"w": torch.tensor([0.5])}, at, gathered(3.0, 2, 4, w=8.0), AlgorithmConfig(scaffold_lr=0.5)
    )
    assert (state["w"].item(), shared["w"].item()) == (4.5, 2.0)  # 0.5 + 2/4 * 8; halfway from 1 to 3


def test_feddyn_by_hand_over_two_rounds():
    algorithm, alpha = ALGORITHMS["feddyn"], 0.4
    learner, first = ScalarLearner(), context(feddyn_alpha=alpha)
    algorithm.begin(learner, first)
    algorithm.step(learner, first)
    algorithm.finish(learner, first)
    g = slope_of_task(H * S)
    moved = S - LR * (g * H + alpha * (S - A))
    assert learner.values()["global"] == pytest.approx(moved, abs=1e-12)
    own = -alpha * (moved - A)
    assert first.state["w"].item() == pytest.approx(own, abs=1e-12)

    again, second = ScalarLearner(), context(feddyn_alpha=alpha)
    second.state = first.state
    algorithm.begin(again, second)
    algorithm.step(again, second)
    expected = START | {"global": S - LR * (g * H - own + alpha * (S - A)), "head": H - LR * g * S}
    assert again.values() == pytest.approx(expected, abs=1e-12)


def test_feddyns_server_by_hand():
    """c = -h / alpha moves by 2/4 * (3 - 1), whatever alpha is; h does by -alpha times that."""
    server, at = ALGORITHMS["feddyn"].server, {"w": torch.tensor([1.0])}
    assert server.start(at) == {"ahead.w": torch.zeros(1)}
    assert (server.sends(server.start(at)), server.expects(at)) == ({}, {})
    for alpha in (0.5, 2.0):
        state, shared = server.finish(
            {"ahead.w": torch.tensor([-0.5])}, at, gathered(3.0, 2, 4), AlgorithmConfig(feddyn_alpha=alpha)
        )
        assert state["ahead.w"].item() == pytest.approx(0.5)
        assert shared["w"].item() == pytest.approx(3.5)
    assert server.answers(state) == state


def test_feddyn_answers_with_the_mean_of_the_clients_adapters():
    algorithm, learner, here = ALGORITHMS["feddyn"], ScalarLearner(), context()
    state, shared = algorithm.server.finish(
        {"ahead.w": torch.tensor([0.25])}, {"w": torch.tensor([1.0])}, gathered(S, 4, 4), here.config
    )
    learner.adapter("global")["w"].data.copy_(shared["w"][0])
    here.received = {key: value[0] for key, value in algorithm.server.answers(state).items()}
    assert learner.values()["global"] != pytest.approx(S)
    algorithm.prepare(learner, here)
    assert learner.values()["global"] == pytest.approx(S)


def test_feddyn_refuses_weights_by_examples():
    config = RunConfig().updated({"method": "feddyn", "server.weighting": "examples"})
    with pytest.raises(ConfigError, match=r"server\.weighting: feddyn computes its own means with equal weights"):
        ALGORITHMS["feddyn"].for_run(config, [])


def test_the_contrastive_loss_by_hand():
    """Row 1 has cosine 1 to the received features and 0 to the last ones, row 2 the reverse; temperature 1/2."""
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    towards, away = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    one, two = -log(exp(2) / (exp(2) + 1)), -log(1 / (1 + exp(2)))
    assert contrastive_loss(z, towards, away, 0.5).item() == pytest.approx((one + two) / 2)


def test_moon_moves_the_global_adapter_and_remembers_it():
    algorithm, learner, here = ALGORITHMS["moon"], ScalarLearner(), context(moon_mu=0.5)
    algorithm.begin(learner, here)
    assert learner.values()["local"] == S
    metrics = algorithm.step(learner, here)
    assert learner.routes == ["anchor", "local", "global"]
    assert learner.moved == [{"global", "head"}]
    # All features have the same sign, so every cosine is 1: the contrast is ln 2 and has no gradient.
    assert metrics["contrast"].item() == pytest.approx(log(2))
    assert metrics["loss"].item() == pytest.approx(metrics["task"].item() + 0.5 * log(2))
    algorithm.finish(learner, here)
    assert learner.values()["local"] == learner.values()["global"] != S


def test_moon_keeps_its_last_model_from_round_to_round():
    learner, here = ScalarLearner(), context()
    here.previous = 3
    ALGORITHMS["moon"].begin(learner, here)
    assert learner.values() == START
