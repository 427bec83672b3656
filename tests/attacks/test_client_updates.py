"""A client whose update is far from the others', that claims far more data, or that poisons state kept over rounds."""

import numpy as np
import pytest
import torch
from attackers import EVE, SHAPES, Honest, is_mean_of_the_honest, refusals, run, state, with_metrics, with_values
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.algorithms.scaffold import ScaffoldServer
from feddat.app.held import HeldReplies
from feddat.app.judge import MOST_MORE, POWER, Judge, Measures
from feddat.app.limits import Limits
from feddat.app.messages import Member, TrainReply
from feddat.app.rules import FLOWER, FlowerRule, MeanRule
from feddat.app.strategy import FederationError
from feddat.config import AlgorithmConfig

NOISE = np.random.default_rng(0)


def noise(times):
    """Return an attack that sends noise with ``times`` times the honest clients' mean norm (they add 1 and 2)."""

    def change(value):
        found = NOISE.normal(size=value.shape)
        return times * 1.5 * found / np.sqrt(np.mean(np.square(found)))

    return {"train": with_values(change)}


@pytest.mark.parametrize("times", [60, 99, 1e4, 1e30])
def test_an_update_far_from_the_others_is_refused(times):
    found = run(noise(times), rounds=3)
    assert {(client, kind) for client, kind, _ in refusals(found)} == {(EVE, "train")}
    assert found.state.refused == 3
    assert is_mean_of_the_honest(found, 4.5)


def test_the_reason_says_what_was_found_and_what_is_used():
    found = run(noise(99), limits=Limits(max_update=1e9))
    allowed = 10 * 1.5 * 10**0.5  # ten examples each, so no allowance for more steps
    assert [reason for *_, reason in refusals(found)] == [
        f"its update's norm is {99 * 1.5 * 10**0.5:.3g}; compared with the others, at most {allowed:.3g} is accepted"
    ]


RULES = {name: {} for name in FLOWER} | {
    "krum": {"num_malicious_nodes": 0},
    "multikrum": {"num_malicious_nodes": 0, "num_nodes_to_select": 2},
    "bulyan": {"num_malicious_nodes": 0},
    "fedtrimmedavg": {"beta": 0.4},
    "qfedavg": {"client_learning_rate": 0.1, "train_loss_key": "train_loss"},
}


@pytest.mark.parametrize("name", sorted(FLOWER))
@pytest.mark.parametrize("values", [lambda value: value * 1e30, lambda value: value + np.float32(3e38)])
def test_under_every_rule_the_run_goes_on_with_the_honest(name, values):
    honest = [
        Honest(client, number) for client, number in zip("abcdefg", (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6), strict=True)
    ]
    attacked = run({"train": with_values(values)}, 2, honest, rule=FlowerRule(name, RULES[name]))
    alone = run({}, 2, honest, eve=False, rule=FlowerRule(name, RULES[name]))
    assert {client for client, *_ in refusals(attacked)} == {EVE}
    assert all(torch.equal(attacked.state.shared[key], alone.state.shared[key]) for key in SHAPES)
    assert all(torch.equal(attacked.state.rule[key], alone.state.rule[key]) for key in alone.state.rule)


def test_where_a_refusal_leaves_too_few_for_the_rule_the_adapter_stays(caplog):
    found = run(noise(99), 2, rule=FlowerRule("krum", {"num_malicious_nodes": 0}))
    assert found.state.round == 2
    assert is_mean_of_the_honest(found, 0.0)
    assert "the global adapter stays as it was: server.rule krum with num_malicious_nodes=0 needs" in caplog.text


def test_too_few_though_none_was_refused_still_ends_the_run():
    with pytest.raises(FederationError, match="needs the replies of at least 3 clients"):
        run({}, honest=[Honest("ann", 1.0)], rule=FlowerRule("krum", {"num_malicious_nodes": 0}))


# Weights


def claiming(count):
    return Honest(EVE, 3.0, examples=count)


def test_whoever_says_to_have_most_data_by_far_is_not_believed():
    settings = {"weighting": "examples", "judge": Judge(examples=True)}
    found = run({}, eve=claiming(9_999_999), **settings)
    assert [reason for *_, reason in refusals(found)] == [
        "claims 9999999 examples; compared with the others, at most 1000 are accepted; set "
        "server.agreed_examples to accept more"
    ]
    assert is_mean_of_the_honest(found)


def test_a_number_that_is_agreed_on_is_believed_and_no_more():
    def with_agreed(count, agreed):
        judge, limits = Judge(agreed=agreed, examples=True), Limits(agreed=agreed)
        return run({}, eve=claiming(count), weighting="examples", judge=judge, limits=limits)

    assert refusals(with_agreed(5000, {EVE: 5000})) == []
    [(_, _, reason)] = refusals(with_agreed(5001, {EVE: 5000}))
    assert reason == "claims 5001 examples, more than 5000 (server.agreed_examples)"


def test_a_client_has_no_more_data_than_it_registered_with():
    found = run({"train": with_metrics(lambda metrics: metrics | {"num-examples": 11})}, weighting="examples")
    assert [reason for *_, reason in refusals(found)] == [
        "claims 11 examples, more than 10 (the number it registered with)"
    ]
    assert is_mean_of_the_honest(found)


def test_its_data_does_not_grow_from_round_to_round():
    rounds = iter(range(1, 9))
    attack = with_metrics(lambda metrics: metrics | {"num-examples": next(rounds)})
    found = run({"train": attack}, 3, weighting="examples")
    assert [reason for *_, reason in refusals(found)] == [
        f"claims {count} examples, but 1 in an earlier round" for count in (2, 3)
    ]


# What stays from round to round


def extras(values):
    """Return an attack that changes only the extra arrays."""

    def attack(content):
        arrays = {
            key: Array(np.full_like(value.numpy(), values)) if key.startswith("extra/") else value
            for key, value in content["shared"].items()
        }
        return RecordDict({"shared": ArrayRecord(arrays), "metrics": content["metrics"]})

    return {"train": attack}


@pytest.mark.parametrize("value", [1e30, 3e38, 2e6, 200.0, -200.0])
@pytest.mark.parametrize("round", [1, 2])
def test_poisoned_control_variates_are_refused_and_not_kept(value, round):
    def scaffold():
        return MeanRule(ScaffoldServer(), AlgorithmConfig())

    def from_round(content, rounds=iter(range(1, 9))):
        return extras(value)["train"](content) if next(rounds) == round else content

    attacked = run({"train": from_round}, 2, rule=scaffold())
    assert [(client, kind) for client, kind, _ in refusals(attacked)] == [(EVE, "train")]
    assert all(float(kept.abs().max()) < 4 for kept in attacked.state.rule.values())
    alone = run({}, 1, rule=scaffold(), eve=False)
    if round == 1:
        share = 2 / 3  # |S| / N: two of three clients count
        first = run({"train": extras(value)["train"]}, 1, rule=scaffold())
        assert all(torch.allclose(first.state.rule[key], share * kept) for key, kept in alone.state.rule.items())


def test_two_cannot_outvote_each_other_but_the_past_can(caplog):
    """With two replies, nobody can say which one is wrong, but later rounds are compared with earlier ones."""
    rounds = iter(range(1, 9))

    def attack(content):
        return noise(99)["train"](content) if next(rounds) > 1 else content

    found = run({"train": attack}, 3, honest=[Honest("ann", 1.0)])
    assert [client for client, *_ in refusals(found)] == [EVE, EVE]


@pytest.mark.parametrize("tiny", [0.0, 1e-9])
def test_no_attacker_gets_honest_clients_refused_by_sending_little(tiny):
    for honest in ([Honest("ann", 1.0)], [Honest("ann", 1.0), Honest("zoe", 2.0)]):
        found = run({"train": with_values(lambda value: value * tiny)}, 3, honest)
        assert {client for client, *_ in refusals(found)} <= {EVE}


# Honest clients that differ


SIZES = st.lists(st.integers(1, 150), min_size=3, max_size=8)


@given(SIZES, st.floats(0.5, 0.75), st.data())
@settings(max_examples=50)
def test_honest_clients_of_any_sizes_are_used(sizes, power, data):
    """Norms are drawn as measured: up to the 0.75th power of the examples, times a factor within a range of 2."""
    measures = [
        Measures(f"c{i}", size**power * data.draw(st.floats(0.71, 1.41)), None, None, size)
        for i, size in enumerate(sizes)
    ]
    assert Judge().outliers(measures) == {}


def test_what_a_client_is_allowed_for_its_examples():
    others = [Measures("a", 1.0, None, None, 10), Measures("b", 1.0, None, None, 10)]

    def allowed(examples, **settings):
        norms = np.geomspace(1, 1e4, 20_001)
        return max(
            n for n in norms if not Judge(**settings).outliers([*others, Measures("c", n, None, None, examples)])
        )

    assert allowed(10) == pytest.approx(10, rel=1e-3)
    assert allowed(1) == pytest.approx(10, rel=1e-3)
    assert allowed(40) == pytest.approx(10 * 4**POWER, rel=1e-3)
    assert allowed(10**6) == pytest.approx(10 * MOST_MORE**POWER, rel=1e-3)
    assert allowed(None) == pytest.approx(10 * MOST_MORE**POWER, rel=1e-3), "who keeps it back is allowed the most"
    assert allowed(10**6, same_steps=True) == pytest.approx(10, rel=1e-3)
    assert allowed(1000, agreed={"c": 1000}) == pytest.approx(10 * 100**POWER, rel=1e-3)


# Where replies wait


def test_replies_beyond_the_limit_wait_in_a_file_and_come_back_to_the_bit():
    held, sent = HeldReplies(most=100), []
    for place in range(4):
        values = {
            key: np.random.default_rng(place).normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()
        }
        sent.append(TrainReply(values, {"c": np.zeros((0, 3), np.float32)}, 1, {"loss": 1.0}))
        held.add(Member(f"c{place}", (f"c{place}",)), sent[-1])
    kinds = [type(reply.shared["up.bias"].base) for _, reply in held._replies]
    assert kinds[:2] == [type(None)] * 2
    assert kinds[2:] != kinds[:2], "they lie in a file"
    for (_, found), before in zip(list(held.taken()), sent, strict=True):
        assert found.metrics == before.metrics
        for key, value in before.shared.items():
            assert np.array_equal(found.shared[key], value)
            assert found.shared[key].shape == value.shape
        assert found.extras["c"].shape == (0, 3)


def test_a_run_whose_replies_wait_in_a_file_has_the_same_numbers(monkeypatch):
    honest = [Honest(name, number) for name, number in (("a", 0.1), ("b", 0.7), ("c", 1.3))]
    whole = run({}, 3, honest, start=state())
    monkeypatch.setattr("feddat.app.strategy.HeldReplies", lambda: HeldReplies(most=0))
    filed = run({}, 3, honest, start=state())
    assert all(torch.equal(whole.state.shared[key], filed.state.shared[key]) for key in SHAPES)
