import random

import numpy as np
import pytest
import torch
from fakes import Adder, Recorder, federate, shared
from hypothesis import given
from hypothesis import strategies as st

from feddat.app.checkpoint import ServerState
from feddat.app.judge import Judge
from feddat.app.rules import MeanRule, RunningMean
from feddat.app.strategy import AdapterStrategy, FederationError


def test_mean_of_three_numbers():
    mean = RunningMean()
    for value in (1.0, 2.0, 6.0):
        mean.add({"w": np.array([value])})
    assert mean.value()["w"] == [3.0]


def test_mean_weighted_by_examples():
    mean = RunningMean()
    for value, weight in ((1.0, 1), (2.0, 1), (6.0, 2)):
        mean.add({"w": np.array([value])}, weight)
    assert mean.value()["w"] == [3.75]


@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), st.integers(1, 20))
def test_mean_of_equal_values_is_the_value(value, count):
    mean = RunningMean()
    for _ in range(count):
        mean.add({"w": np.float32(value)})
    assert np.float32(mean.value()["w"]) == np.float32(value)


@pytest.mark.parametrize(("weighting", "expected"), [("equal", 3.0), ("examples", 3.75)])
def test_a_round_ends_with_the_mean_adapter(weighting, expected):
    state = ServerState(shared())
    clients = [Adder("ann", 1), Adder("bob", 2), Adder("cid", 6, examples=2)]
    federate(clients, state, weighting=weighting)
    assert all(torch.equal(value, torch.full_like(value, expected)) for value in state.shared.values())
    assert [value.dtype for value in state.shared.values()] == [torch.float32] * 2


def test_the_order_of_arrival_does_not_change_a_bit():
    class Shuffled(Recorder):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            random.Random(5).shuffle(replies)
            return iter(replies)

    results, events = [], []
    for grid_type in (Recorder, Shuffled):
        state = ServerState(shared())
        # Sums of these numbers depend on their order, even in float64.
        clients = [Adder(f"c{i}", float(10.0 ** (4 * i - 14))) for i in range(9)]
        events.append([e.get("client") for e in federate(clients, state, 2, grid_type, judge=Judge(1e40))[2]])
        results.append(state.shared)
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert events[0] == events[1]


def strategy_with(count: int, fraction: float, seed: int = 0) -> AdapterStrategy:
    from feddat.app.messages import Member

    strategy = AdapterStrategy(seed=seed, rule=MeanRule(), shapes={}, routes=["dat"], fraction=fraction)
    strategy.roster.members = {node: Member(f"c{node}", (f"c{node}",)) for node in range(1, count + 1)}
    return strategy


@given(st.integers(1, 12), st.floats(0.01, 1.0), st.integers(1, 50))
def test_sampling_depends_on_seed_and_round_alone(count, fraction, round):
    sample = strategy_with(count, fraction).sample(round)
    assert sample == strategy_with(count, fraction).sample(round)
    assert 1 <= len(sample) <= count
    assert sample == sorted(set(sample))
    assert abs(len(sample) - fraction * count) <= 0.5 or len(sample) == 1


def test_sampling_differs_between_rounds_and_seeds():
    samples = {tuple(strategy_with(10, 0.3, seed).sample(round)) for seed in (0, 1) for round in range(1, 6)}
    assert len(samples) > 5


def test_all_are_evaluated_and_only_the_sampled_train():
    clients = [Adder(name) for name in ("ann", "bob", "cid", "dan")]
    federate(clients, ServerState(shared()), rounds=3, fraction=0.5)
    assert sum(turn[0] == "fit" for client in clients for turn in client.turns) == 3 * 2
    assert all(sum(turn[0] == "evaluate" for turn in client.turns) == 4 for client in clients)


class Broken(Adder):
    def fit(self, shared, round, extras=None):
        if round == 2:
            raise RuntimeError("disk on fire")
        return super().fit(shared, round)


class Poisoned(Adder):
    def fit(self, shared, round, extras=None):
        result = super().fit(shared, round)
        result.shared["up.bias"][1] = float("nan")
        return result


def test_a_failing_client_is_counted_and_the_round_goes_on(caplog):
    state = ServerState(shared())
    _, _, events = federate([Adder("ann"), Broken("bob")], state, rounds=3)
    assert (state.failed, state.refused) == (1, 0)
    assert {k: v for e in events if e["event"] == "failed" for k, v in e.items()} == {
        "event": "failed",
        "round": 2,
        "kind": "train",
        "client": "bob",
        "reason": "RuntimeError: disk on fire",
    }
    assert "client bob failed: RuntimeError: disk on fire" in caplog.text
    assert state.round == 3


def test_a_poisoned_reply_is_refused_and_leaves_no_trace(caplog):
    state = ServerState(shared())
    federate([Adder("ann", 4), Poisoned("bob", 100)], state, rounds=1)
    assert state.refused == 1
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 4.0))
    assert "client bob refused: array up.bias has NaN or infinite values" in caplog.text


def test_when_all_fail_the_run_stops_with_the_first_reason():
    state = ServerState(shared())
    with pytest.raises(FederationError, match=r"round 2, train: no client .*: client ann: RuntimeError: disk on fire"):
        federate([Broken("ann"), Broken("bob")], state, rounds=3)
    assert state.round == 1


def test_the_second_of_two_nodes_with_one_name_is_turned_away(caplog):
    class Twins(Recorder):
        def __init__(self, app, clients):
            super().__init__(app, [*clients, *clients])

    ann, state = Adder("ann", 3.0), ServerState(shared())
    federate([ann], state, rounds=2, grid_type=Twins)
    assert [turn for turn in ann.turns if turn[0] == "fit"] == [("fit", 1), ("fit", 2)]
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 6.0))
    assert caplog.text.count("two nodes say they are client ann: 1 and 2; turned away") == 1
