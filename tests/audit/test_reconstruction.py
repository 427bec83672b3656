"""Reconstruction of training data: on tensors small enough to follow, and on messages of the real client."""

import numpy as np
import pytest
import torch

from feddat.audit import imprint, message, sentences, sums, words
from feddat.audit.message import Target
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


def size(down=1.0, up=1e-4):
    return imprint.Size(down, up, 0.0)


def test_a_token_that_is_alone_in_its_bin_is_rebuilt():
    generator = torch.Generator().manual_seed(0)
    tokens, pulls = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    # There are as many bins as tokens, cut at the tokens' quantiles: one token in each bin, the lowest on a cut.
    crafted = imprint.bins(shared(rows=6), {0: tokens}, 6, size(), seed=0)
    cuts = -crafted[SITE.format(0, "down.bias")]
    assert (cuts.diff() > 0).all()
    assert torch.equal(crafted[SITE.format(1, "down.weight")], torch.zeros(6, 4)), "the last adapter stays"
    centre, site = tokens.mean(dim=0), SITE.format(0, "").removesuffix("bottleneck_")
    found = imprint.rebuilt(update(crafted, tokens, pulls), site)
    assert imprint.near(tokens, found, centre).sum() >= 4
    # A sum of two clients' updates is that of their tokens together: bins with one token of both give it away.
    first, second = update(crafted, tokens[:3], pulls[:3]), update(crafted, tokens[3:], pulls[3:])
    total = {key: first[key] + second[key] for key in first}
    assert imprint.near(tokens, imprint.rebuilt(total, site), centre).sum() >= 4
    # Two equal bins of all tokens give sums of tokens, which match none.
    wide = crafted | {SITE.format(0, "down.bias"): torch.full((6,), 100.0)}
    assert imprint.near(tokens, imprint.rebuilt(update(wide, tokens, pulls), site), centre).sum() == 0


def test_fewer_bins_than_tokens_are_as_wide_as_one_token():
    tokens = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    crafted = imprint.bins(shared(rows=6), {0: tokens}, 600, size(), seed=0)
    inside = tokens @ crafted[SITE.format(0, "down.weight")][0] + crafted[SITE.format(0, "down.bias")][:, None]
    assert (inside > 0).sum(dim=1).tolist() == [6, 5, 4, 3, 2, 1]


def test_layers_are_in_the_order_of_their_numbers():
    keys = {f"layer.{place}.bottleneck_down.weight": torch.zeros(1) for place in range(12)}
    assert list(imprint.sites(keys)) == list(range(11))


def test_nothing_moved_gives_nothing():
    site = SITE.format(0, "").removesuffix("bottleneck_")
    assert not imprint.near(torch.ones(2, 4), imprint.rebuilt(shared(), site), torch.zeros(4)).any()


def test_closeness_counts_from_the_average():
    truth, centre = torch.tensor([[10.0, 0.0], [10.0, 1.0]]), torch.tensor([10.0, 0.0])
    assert imprint.near(truth, torch.tensor([[10.0, 0.85]]), centre).tolist() == [False, True]
    assert imprint.near(truth, torch.tensor([[10.0, 0.75]]), centre).tolist() == [False, False]


def test_a_patch_that_is_alone_in_its_row_is_rebuilt_from_its_sizes_and_guessed_from_its_signs():
    generator = torch.Generator().manual_seed(0)
    own, tokens = torch.randn(500, 4, generator=generator), torch.randn(6, 4, generator=generator)
    crafted = imprint.bins(shared(rows=6), {0: own}, 6, imprint.Size(1.0, 1e-4, 0.0, alone=1.0), seed=0)
    site = SITE.format(0, "").removesuffix("bottleneck_")
    down, bias = crafted[site + "bottleneck_down.weight"], crafted[site + "bottleneck_down.bias"]
    assert ((own @ down.T + bias > 0).float().mean(dim=0) * 6).tolist() == pytest.approx([1] * 6, abs=0.02)
    pulls = torch.randn(6, 4, generator=generator)
    alone = [row for row in range(6) if (tokens @ down[row] + bias[row] > 0).sum() == 1]
    there = torch.stack([(tokens @ down[row] + bias[row]).argmax() for row in alone])
    assert len(alone) >= 2
    moved = update(crafted, tokens, pulls)
    guesses, middle = imprint.alone(moved, site, own), len(imprint.alone(moved, site, own)) // 2
    assert imprint.near(tokens[there], guesses[:middle], torch.zeros(4)).all()
    # Guarded steps leave the signs: none is close, but most guesses point the right way.
    signs = {key: value.sign() if "down" in key else value for key, value in moved.items()}
    guesses = imprint.alone(signs, site, own)[middle:]
    closest = torch.nn.functional.cosine_similarity(tokens[there].double()[:, None], guesses[None], dim=-1).amax(dim=1)
    assert (closest > 0.6).all()


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
def target(settings):
    """Return a function that returns what is attacked; its arguments override single settings of the run."""

    def make(**changes):
        experiment = Experiment(settings(**changes))
        clients = load_clients(experiment.settings)
        generator = np.random.default_rng(1)
        known = [
            Example(str(i), (generator.integers(0, 256, (32, 32, 3), np.uint8),), "what is the color ?", {"red": 1.0})
            for i in range(16)
        ]
        return Target(experiment.settings, tuple(clients), tuple(known))

    return make


def test_a_client_that_obeys_gives_away_pictures_words_and_questions(target, tmp_path):
    obeyed = imprint.attack(target(), 2, 1, "obeys", tmp_path / "a")
    assert obeyed["of"] == 8 and obeyed["recovered"] >= 2
    rows = words.by_rows(target(), 2, 1, "obeys", tmp_path / "b")
    assert rows["recovered"] == rows["of"] == 5 and rows["wrong"] == 0
    span = words.by_span(target(), 2, 1, "obeys", tmp_path / "c")
    assert span["recovered"] == span["of"] == 5 and span["wrong"] == 0
    asked = sentences.attack(target(), 2, 1, "obeys", tmp_path / "d")
    assert (asked["recovered"], asked["of"], asked["wrong"], asked["rouge"]) == (1, 1, 0, [1.0, 1.0, 1.0])


def test_a_policy_refuses_settings_and_the_attacks_keep_within_it(target, tmp_path):
    kept = imprint.attack(target(), 8, 4, "policy", tmp_path / "d")
    assert kept["recovered"] == 0 and "min_examples" in kept["refused"], "32 examples are too few"
    assert "policy.kinds" in words.by_rows(target(), 8, 8, "policy", tmp_path / "e")["refused"]
    assert "policy.sites" in sentences.attack(target(), 8, 8, "policy", tmp_path / "f")["refused"]
    for adapter, changes in (("bottleneck", {"adapter.reduction": 2}), ("lora", {"adapter.rank": 64})):
        allowed = message.settings(target().config, 8, 8, changes | {"adapter.peft": adapter}, True)
        assert message.refusal(allowed, 64) is None
        obeyed = message.settings(target().config, 8, 8, changes | {"adapter.peft": adapter}, False)
        assert "policy.bounds" in message.refusal(obeyed, 64)


def test_a_client_of_the_run_has_the_runs_settings(target):
    plain = message.ask(target(train__batch_size=8), "run", 1, 1, {"adapter.reduction": 1}, "bottleneck")
    assert (plain.config.adapter.reduction, plain.examples, plain.steps, plain.refused) == (2, 32, 32, None)
    assert "needs an adapter of kind lora" in message.ask(target(), "run", 1, 1, {}, "lora").refused
    assert "no update leaves a client" in message.ask(target(method="local"), "run", 1, 1, {}, "bottleneck").refused
    summed = message.ask(target(secure_aggregation__enabled=True), "run", 1, 1, {}, "bottleneck")
    assert summed.examples == 64 and "a sum of 2 clients is not opened" in summed.refused


def test_noise_of_the_run_reaches_the_message(target, tmp_path):
    """Without noise, patches come out of a message with these settings; with noise, none does."""
    settings = {"train__epochs": 1, "train__lr": 0.001, "train__eps": 1e-6, "train__weight_decay": 0.0}
    found = imprint.attack(target(**settings), 0, 0, "run", tmp_path / "a")
    private = {"privacy__epsilon": 8.0, "privacy__delta": 1e-4, "share_metrics": "none"}
    kept = imprint.attack(target(**settings, **private), 0, 0, "run", tmp_path / "b")
    assert found["recovered"] > 0 and kept["recovered"] == 0 and found["of"] == kept["of"] > 0


def test_a_sum_is_seen_as_the_protocol_rounds_it(target):
    updates = [{"b": torch.tensor([[0.004, -0.02]]), "a": torch.tensor([0.001])} for _ in range(3)]
    config = target(secure_aggregation__enabled=True, secure_aggregation__bits=16).config
    found = sums.opened(updates, config)
    # Numbers beyond the clip of 0.01 are cut off; the rest is exact up to half a level per client.
    step = 0.01 / ((2**16 - 1) // 6)
    assert found["a"].item() == pytest.approx(0.003, abs=1.5 * step)
    assert found["b"].tolist()[0] == pytest.approx([0.012, -0.03], abs=1.5 * step)
    noisy = config.updated({"privacy.epsilon": 8.0, "privacy.unit": "client", "share_metrics": "none"})
    assert not torch.equal(sums.opened(updates, noisy)["b"], sums.opened(updates, noisy)["b"])
