"""Reconstruction of training data: on tensors small enough to follow, and on messages of the real client."""

import numpy as np
import pytest
import torch

from feddat.audit import imprint, message, words
from feddat.example import Example
from feddat.experiment import Experiment, load_clients

SITE = "layer.{}.bottleneck_{}"


def shared(rows=6, width=4):
    return {
        SITE.format(place, name): torch.zeros(shape)
        for place in range(2)
        for name, shape in {
            "down.weight": (rows, width),
            "down.bias": (rows,),
            "up.weight": (width, rows),
            "up.bias": (width,),
        }.items()
    }


def update(crafted, tokens, pulls):
    """Replace the first adapter's W_down and b_down by their gradients of Σ pull · A(token), from autograd."""
    down, bias = (crafted[SITE.format(0, name)].clone().requires_grad_() for name in ("down.weight", "down.bias"))
    up = crafted[SITE.format(0, "up.weight")]
    out = torch.relu(tokens @ down.T + bias) @ up.T
    gradients = torch.autograd.grad((out * pulls).sum(), (down, bias))
    return crafted | {SITE.format(0, "down.weight"): gradients[0], SITE.format(0, "down.bias"): gradients[1]}


def test_a_token_that_is_alone_in_its_bin_is_rebuilt():
    generator = torch.Generator().manual_seed(0)
    tokens, pulls = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    # There are as many bins as tokens, cut at the tokens' quantiles: one token in each bin, the lowest on a cut.
    crafted = imprint.bins(shared(rows=6), tokens, seed=0)
    cuts = -crafted[SITE.format(0, "down.bias")]
    assert (cuts.diff() > 0).all()
    assert torch.equal(crafted[SITE.format(1, "down.weight")], torch.zeros(6, 4)), "the last adapter stays"
    found = imprint.rebuilt(update(crafted, tokens, pulls))
    assert imprint.matched(found, tokens) >= 4
    # Two equal bins of all tokens give sums of tokens, which match none.
    wide = crafted | {SITE.format(0, "down.bias"): torch.full((6,), 100.0)}
    assert imprint.matched(imprint.rebuilt(update(wide, tokens, pulls)), tokens) == 0


def test_nothing_moved_gives_nothing():
    assert imprint.matched(imprint.rebuilt(shared()), torch.ones(2, 4)) == 0


def test_words_in_the_span_are_named_and_others_are_not():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 1, 16, generator=generator)
    there = [3, 7, 21]
    gradients = torch.randn(8, 3, generator=generator) @ inputs[there, 0]
    assert words.in_span(gradients, inputs) == set(there)
    assert words.in_span(torch.zeros(8, 16), inputs) == set()
    assert words.in_span(torch.randn(20, 16, generator=generator), inputs) == set(), "every direction: nothing is said"


def test_words_are_counted_right_and_wrong():
    assert words.scored({1, 2, 3, 9}, {2, 3, 4}, 50) == {"recovered": 2, "of": 3, "wrong": 0, "vocabulary": 50}


@pytest.fixture
def asked(settings):
    """Return settings with a model of 4 patches, a client, and an attacker's own examples."""
    experiment = Experiment(settings())
    data = load_clients(experiment.settings)[0]
    generator = np.random.default_rng(1)
    known = [
        Example(str(i), (generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),), "what is the color ?", {"red": 1.0})
        for i in range(16)
    ]
    return experiment.settings, data, known


def test_a_client_that_obeys_gives_away_what_one_with_a_policy_keeps(asked, tmp_path):
    config, data, known = asked
    obeyed = imprint.attack(config, data, known, 2, 1, False, tmp_path / "a")
    assert obeyed["of"] == 8 and obeyed["recovered"] >= 2
    rows = words.by_rows(config, data, 2, 1, False, tmp_path / "b")
    assert rows["recovered"] == rows["of"] == 5 and rows["wrong"] == 0
    span = words.by_span(config, data, 2, 1, False, tmp_path / "c")
    assert span["recovered"] == span["of"] == 5 and span["wrong"] == 0

    kept = imprint.attack(config, data, known, 8, 4, True, tmp_path / "d")
    assert kept["recovered"] == 0 and "min_examples" in kept["refused"], "32 examples are too few"
    assert "policy.kinds" in words.by_rows(config, data, 8, 8, True, tmp_path / "e")["refused"]


def test_the_policys_way_is_within_the_policy(asked):
    config = asked[0]
    for changes in (
        {"adapter.peft": "bottleneck", "adapter.reduction": 2},
        {"adapter.peft": "lora", "adapter.rank": 64},
    ):
        assert message.refusal(settings_of(config, changes, True), 64) is None
        assert "policy.bounds" in message.refusal(settings_of(config, changes, False), 64)


def settings_of(config, changes, allowed):
    return message.settings(config, 8, 8, changes, allowed)
