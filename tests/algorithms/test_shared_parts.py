"""Methods that share or train only a part of the adapter, by hand and over real adapters."""

import pytest
import torch
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.config import ConfigError, load_config

KEYS = [f"encoder.layer.{n}.output.bottleneck_{part}.weight" for n in range(4) for part in ("down", "up")]


def loras(*layers):
    return [f"encoder.layer.{n}.attention.attention.query.lora_{part}.weight" for n in layers for part in "AB"]


def test_fedrep_trains_the_head_first():
    """Of five steps at a share of 0.4, two train the head and three the adapter."""
    learner, fedrep = ScalarLearner(), ALGORITHMS["fedrep"]
    for step in range(5):
        now = context(head_share=0.4)
        now.steps, now.step = 5, step
        fedrep.step(learner, now)
    assert learner.moved == [{"head"}] * 2 + [{"global"}] * 3
    # The first step by hand: d loss / d z = sigmoid(z) - 1 at z = head * global.
    first = ScalarLearner()
    fedrep.step(first, context(head_share=1.0))
    s, h = START["global"], START["head"]
    slope = torch.sigmoid(torch.tensor(h * s, dtype=torch.float64)).item() - 1
    assert first.values()["head"] == pytest.approx(h - LR * slope * s, abs=1e-12)


def test_fedper_keeps_the_last_layers():
    config = load_config(None, ["method=fedper", "algorithm.personal_layers=2"])
    fedper = ALGORITHMS["fedper"].for_run(config, [*KEYS, "layernorm.weight"])
    assert [key for key in KEYS if fedper.shares(key)] == KEYS[:4]
    assert fedper.shares("layernorm.weight")
    assert all(map(fedper.trains_key, KEYS))


def test_fedper_counts_the_layers_of_each_tower():
    towers = [f"{tower}.encoder.layers.{n}.w" for tower, depth in (("text", 2), ("vision", 3)) for n in range(depth)]
    fedper = ALGORITHMS["fedper"].for_run(load_config(None, ["method=fedper"]), towers)
    assert [key for key in towers if not fedper.shares(key)] == ["text.encoder.layers.1.w", "vision.encoder.layers.2.w"]


def test_fedper_refuses_what_leaves_nothing_to_share():
    config = load_config(None, ["algorithm.personal_layers=4"])
    with pytest.raises(ConfigError, match=r"algorithm\.personal_layers: 4 of 4 layers leave nothing to be shared"):
        ALGORITHMS["fedper"].for_run(config, KEYS)
    with pytest.raises(ConfigError, match="fedper needs adapters in layers"):
        ALGORITHMS["fedper"].for_run(config, ["text.tokens"])


@pytest.mark.parametrize(
    ("method", "shared", "trained"), [("fedsa-lora", "A", "AB"), ("ffa-lora", "B", "B")], ids=["fedsa", "ffa"]
)
def test_which_factors_travel_and_train(method, shared, trained):
    algorithm = ALGORITHMS[method]
    assert [key[-8] for key in loras(0, 1) if algorithm.shares(key)] == list(shared) * 2
    assert [key[-8] for key in loras(0, 1) if algorithm.trains_key(key)] == list(trained) * 2
    assert algorithm.kinds == ("lora",)
