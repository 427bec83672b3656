"""FedDPA and FedALT, which mix two adapters with weights of their own, by hand."""

import pytest
import torch
from scalars import LR, START, ScalarLearner, context

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.fedalt import REPLIES, CountedMean, rest_of_world
from feddat.algorithms.feddpa import INSTANCES, local_weights
from feddat.algorithms.server import Gathered
from feddat.config import AlgorithmConfig, ConfigError, load_config


def slope(z):
    """Return d/dz of the task loss for logits (z, 0), where the first class is correct."""
    return torch.sigmoid(torch.tensor(z, dtype=torch.float64)).item() - 1


# FedDPA ---------------------------------------------------------------------------------------------------------------


def test_feddpa_step_by_hand():
    """First the global adapter trains as in FedAvg; then the local one, mixed at weight a with the new global one."""
    s, c, h, a = START["global"], START["local"], START["head"], 0.25
    g = slope(h * s)
    s_new, h_mid = s - LR * g * h, h - LR * g * s
    mixed = a * c + (1 - a) * s_new
    g = slope(h_mid * mixed)
    learner = ScalarLearner()
    ALGORITHMS["feddpa"].step(learner, context(local_weight=a))
    expected = {"global": s_new, "local": c - LR * g * h_mid * a, "head": h_mid - LR * g * mixed}
    assert learner.values() == pytest.approx(expected | {"anchor": START["anchor"]}, abs=1e-12)
    assert learner.moved == [{"global", "head"}, {"local", "head"}]


def test_feddpa_weighs_by_familiarity():
    """Cosines with (1, 0) and (0, 1): 1 and 0 for (2, 0), √½ for (1, 1), -1 and 0 for (-1, 0).

    α is half their mean, at least 0.
    """
    now = context(local_weight=0.5)
    features = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert local_weights(features, now).tolist() == [0.5] * 3, "nothing to compare with yet"
    now.state[INSTANCES] = torch.eye(2)
    torch.testing.assert_close(local_weights(features, now), torch.tensor([0.25, 0.5 * 0.5**0.5, 0.0]))


def test_feddpa_keeps_the_first_examples_of_each_round():
    now = context(instances=3)
    now.state[INSTANCES] = torch.zeros(3, 1)
    for now.step in range(5):
        ALGORITHMS["feddpa"].step(ScalarLearner(), now)
    assert now.state[INSTANCES].tolist() == [[1.0]] * 3, "one per batch of one, of this round alone"


def test_feddpa_answers_with_the_mixture():
    learner, now = ScalarLearner(), context(local_weight=0.25)
    now.state[INSTANCES] = torch.ones(1, 1)
    logits = ALGORITHMS["feddpa"].answer(learner, "mixed", now)
    expected = START["head"] * (0.25 * START["local"] + 0.75 * START["global"])
    assert logits[0, 0].item() == pytest.approx(expected)
    assert ALGORITHMS["feddpa"].answer(learner, "local", now)[0, 0].item() == pytest.approx(-0.3 * 1.5)


# FedALT ---------------------------------------------------------------------------------------------------------------


def test_the_rest_of_the_world_is_the_mean_of_the_others():
    own = [torch.tensor([value]) for value in (1.0, 4.0, 10.0)]
    mean = torch.stack(own).mean(dim=0)
    assert [rest_of_world(mean, value, 3).item() for value in own] == pytest.approx([7.0, 5.5, 2.5], abs=1e-6)
    assert rest_of_world(mean, None, 3).item() == 5.0, "one that did not take part"
    assert rest_of_world(own[0], own[0], 1).item() == 0, "alone in the world"
    assert rest_of_world(mean, None, 0).item() == 0, "before the first round"


def test_the_server_tells_how_many():
    server = CountedMean()
    state = server.start({"w": torch.ones(2)})
    assert server.sends(state)[REPLIES].tolist() == [0]
    gathered = Gathered({"w": torch.full((2,), 5.0)}, {}, replies=3, clients=4)
    state, shared = server.finish(state, {"w": torch.ones(2)}, gathered, AlgorithmConfig())
    assert server.sends(state)[REPLIES].tolist() == [3]
    assert shared["w"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("previous", [None, 1, 2])
def test_a_round_begins_with_the_rest_and_the_own(previous):
    learner, now = ScalarLearner(), context(round=3)
    now.previous, now.received = previous, {REPLIES: torch.tensor([4.0])}
    ALGORITHMS["fedalt"].begin(learner, now)
    s, c = START["global"], START["local"]
    rest = (4 * s - c) / 3 if previous == 2 else s
    assert learner.values() == pytest.approx(
        {"global": s, "local": s if previous is None else c, "anchor": rest, "head": START["head"]}
    )


def test_fedalt_step_by_hand():
    """The mixer starts at one half each. A step moves local adapter, mixer and head, never the rest of the world."""
    c, a, h = START["local"], START["anchor"], START["head"]
    g = slope(h * (c + a) / 2)
    learner, now, fedalt = ScalarLearner(), context(), ALGORITHMS["fedalt"]
    fedalt.step(learner, now)
    # z = h (w₁ c + w₂ a) with w = softmax(m + b), so dz/dm₁ = dz/db₁ = h (c - a) / 4 and the opposite for the second.
    move = -LR * g * h * (c - a) / 4
    assert now.state["mixer.weight"].flatten().tolist() == pytest.approx([move, -move])
    assert now.state["mixer.bias"].tolist() == pytest.approx([move, -move])
    expected = {"global": START["global"], "anchor": a, "local": c - LR * g * h / 2, "head": h - LR * g * (c + a) / 2}
    assert learner.values() == pytest.approx(expected)
    # The answer uses the mixer after the step: with features 1, softmax of (2 move, -2 move).
    w = torch.softmax(torch.tensor([2 * move, -2 * move]), dim=0).tolist()
    z = learner.p["head"].item() * (w[0] * learner.p["local"].item() + w[1] * a)
    assert fedalt.answer(learner, "mixed", now)[0, 0].item() == pytest.approx(z, rel=1e-6)
    assert fedalt.finish(learner, now) == {}
    assert learner.p["global"].item() == learner.p["local"].item(), "a copy of its own adapter travels"


def test_fedalt_refuses_what_it_cannot_undo():
    for override in ("server.weighting=examples", "eval.anchor=newest"):
        with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.") + ": fedalt"):
            ALGORITHMS["fedalt"].for_run(load_config(None, [override]), [])
