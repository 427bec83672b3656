"""The estimate of a comparison's duration, which commands print before they download and compute for hours."""

import pytest

from feddat.algorithms import ALGORITHMS
from feddat.cli import costs
from feddat.config import load_config

#: 2 rounds of 100 training questions for each of 3 clients; afterwards 10 validation questions each, and 60 for a test.
SETTINGS = {
    "benchmark": "medical/small",
    "model": "dandelin/vilt-b32-mlm",
    "rounds": 2,
    "train_examples": 100,
    "validation_examples": 10,
    "test_examples": 20,
    "eval.every": 2,
}


def trained(method, **settings):
    """Return the passes of two rounds of training: what two more rounds take, without their evaluation."""
    four, two = (
        costs.gigaflops(load_config(**SETTINGS | settings | {"rounds": rounds, "method": method}), 2.0)
        for rounds in (4, 2)
    )
    return four - two - len(ALGORITHMS[method.removesuffix("-2x")].routes) * 30


def test_the_operations_of_a_run_by_hand():
    # With 2 operations for a step, a pass takes 1.
    assert costs.gigaflops(load_config(**SETTINGS | {"method": "fedavg"}), 2.0) == 2 * (2 * 300) + 30 + 60
    assert costs.gigaflops(load_config(**SETTINGS | {"method": "head"}), 2.0) == 300 + 30 + 60
    # FedDAT passes twice and evaluates three routes.
    assert costs.gigaflops(load_config(**SETTINGS | {"method": "feddat"}), 2.0) == 4 * (2 * 300) + 3 * (30 + 60)


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("fedavg", 2),
        ("local", 2),
        ("feddat-2", 2),
        ("fedavg-2x", 4),
        ("feddat-2-2x", 4),
        ("feddat", 4),
        ("ditto", 4),
        ("apfl", 4),
        ("feddpa", 4),
        ("fedavg-local", 4),
        ("moon", 4),
    ],
)
def test_training_costs_what_the_method_passes_forward_and_backward(method, passes):
    assert trained(method) == passes * 2 * 300


def test_training_costs_what_the_settings_ask_for():
    assert trained("fedavg", **{"train.epochs": 3}) == 2 * 3 * 2 * 300
    assert trained("fedavg", **{"train.steps": 7, "train.batch_size": 8}) == 2 * 2 * 3 * 7 * 8
    assert trained("fedavg", **{"server.fraction": 0.5}) == 2 * 300
    assert trained("pfedme", **{"algorithm.pfedme_steps": 3}) == 3 * 2 * 2 * 300


def test_a_comparison_says_how_long_it_takes(monkeypatch, capsys):
    monkeypatch.setattr("feddat.bench.clock.matmul_rates", lambda device, dtype: {512: 1e12 / 0.85})
    costs.announce([load_config(**SETTINGS | {"train.precision": "fp32"})], ["fedavg", "feddat-2"], seeds=10)
    said = " ".join(capsys.readouterr().out.split())
    # 25.5 GFLOP a pass: FedAvg 1,290 passes, FedDAT-2 1,470, ten seeds, at 1 TFLOP/s.
    assert "about 0.2 h on this cpu" in said
