"""A client that sends absurd metrics: its reply is refused, does not count in any mean, and fills no log."""

import json
import math

import pytest
from attackers import EVE, Honest, is_mean_of_the_honest, logged, refusals, run, with_metrics
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from feddat.app.judge import Judge
from feddat.app.rules import FlowerRule


def without(*keys):
    return with_metrics(lambda metrics: {key: value for key, value in metrics.items() if key not in keys})


def putting(**values):
    return with_metrics(lambda metrics: metrics | {key.replace("__", "."): value for key, value in values.items()})


def qfedavg():
    return FlowerRule("qfedavg", {"client_learning_rate": 0.1, "train_loss_key": "train_loss"})


TRAIN = {
    "no round": (without("round"), "answers for round None, expected 1"),
    "no number of examples": (without("num-examples"), "num-examples is None"),
    "loss below 0": (putting(train__loss=-5.0), "metric train.loss is -5, expected 0 to 1e+09"),
    "loss beyond any": (putting(train__loss=1.7e308), "metric train.loss is 1.7e+308"),
    "loss of many digits": (putting(train__loss=10**18), "metric train.loss is 1e+18"),
    "NaN": (putting(train__loss=math.nan), "metric train.loss is nan"),
    "a list": (putting(train__loss=[1.0] * 100_000), "the metrics are not a record of single numbers"),
    "another name": (putting(train__looss=1.0), "unexpected train.looss"),
    "a score": (putting(score__dat=100.0), "unexpected score.dat"),
    "steps beyond any": (putting(train__steps=1e300), "metric train.steps is 1e+300"),
    "seconds below 0": (putting(train__seconds=-1.0), "metric train.seconds is -1"),
    "a fraction of an example": (putting(**{"num-examples": 1.5}), "num-examples is 1.5, expected a whole number"),
    "no example": (putting(**{"num-examples": 0}), "num-examples is 0"),
    "thousands": (
        with_metrics(lambda metrics: metrics | {f"train.x{i}": 1.0 for i in range(30_000)}),
        "keys of the metrics do not fit: unexpected train.x0, train.x1, train.x10",
    ),
    "a long name": (putting(**{"train.\x1b[31m" + "x" * 10**6: 1.0}), r"unexpected train.\x1b[31mxxx"),
    "another record": (
        lambda content: RecordDict({**content, "more": MetricRecord({"a": 1})}),
        "keys of the records do not fit: unexpected more",
    ),
    "settings for metrics": (
        lambda content: RecordDict({"shared": content["shared"], "metrics": ConfigRecord({"round": 1})}),
        "answers for round None",
    ),
    "arrays for metrics": (
        lambda content: RecordDict({"shared": content["shared"], "metrics": ArrayRecord()}),
        "answers for round None",
    ),
    "metrics for arrays": (
        lambda content: RecordDict({"shared": content["metrics"], "metrics": content["metrics"]}),
        "keys of the shared part do not fit: missing down.weight, up.bias",
    ),
    "nothing": (lambda content: RecordDict(), "missing metrics, shared"),
}


@pytest.mark.parametrize("rule", [None, qfedavg], ids=["mean", "qfedavg"])
@pytest.mark.parametrize("name", TRAIN)
def test_absurd_training_metrics_cost_their_own_reply(name, rule, caplog):
    attack, reason = TRAIN[name]
    found = run({"train": attack}, rule=rule and rule())
    [(client, kind, told)] = refusals(found)
    assert (client, kind) == (EVE, "train")
    assert reason in told
    assert all(math.isfinite(float(value.sum())) for value in found.state.shared.values())
    if rule is None:
        assert is_mean_of_the_honest(found)
    [line] = [line for line in logged(caplog) if EVE in line]
    assert len(line) < 400
    assert line.isprintable()
    assert len(json.dumps(found.events)) < 5000
    assert [event["metrics"] for event in found.events if event["event"] == "round"] == [{"loss": 1.5, "steps": 1.0}]


EVALUATE = {
    "a score above 100": (putting(score__dat=1e6), "score of eve on route dat is 1000000.0, expected 0 to 100"),
    "a score below 0": (putting(score__dat=-1.0), "is -1.0, expected 0 to 100"),
    "no score": (without("score.dat"), "missing score.dat"),
    "another route": (putting(score__best=99.0), "unexpected score.best"),
    "examples below 0": (putting(examples=-5), "examples is -5, expected a whole number from 0"),
    "examples beyond any": (putting(examples=10**18), "examples is 1000000000000000000"),
    "a loss": (putting(train__loss=1.0), "unexpected train.loss"),
    "thousands": (
        with_metrics(lambda metrics: metrics | {f"x{i}/score.dat": 1.0 for i in range(3000)}),
        "unexpected x0/score.dat, x1/score.dat, x10/score.dat",
    ),
}


@pytest.mark.parametrize("name", EVALUATE)
def test_absurd_scores_cost_their_own_reply(name, caplog):
    attack, reason = EVALUATE[name]
    found = run({"evaluate": attack})
    [(client, kind, told)] = refusals(found)
    assert (client, kind) == (EVE, "evaluate")
    assert reason in told
    assert found.strategy.scores == {"ann": {"dat": 50.0}, "zoe": {"dat": 50.0}}
    assert len([line for line in logged(caplog) if EVE in line]) == 1


def test_a_loss_within_bounds_that_would_take_the_rule_over_is_judged_by_the_others():
    found = run({"train": putting(train__loss=1e6)}, rule=qfedavg(), judge=Judge(losses=True))
    [(client, _, reason)] = refusals(found)
    assert client == EVE
    assert reason == "its loss is 1e+06; compared with the others, at most 75 is accepted"


def test_rounding_below_0_is_no_reason():
    found = run({"train": putting(train__loss=-1e-7)})
    assert refusals(found) == []
    assert [event["metrics"]["loss"] for event in found.events if event["event"] == "fit"] == [1.0, 0.0, 2.0]


def test_losses_that_may_be_below_0_are_bounded_too():
    below = {"logs_below_zero": True}
    assert refusals(run({"train": putting(train__loss=-5.0)}, **below)) == []
    assert refusals(run({"train": putting(train__loss=-1e300)}, **below))[0][2].startswith(
        "metric train.loss is -1e+300"
    )


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), KeyError("x"), UnicodeError("\x1b]0;x\x07")])
def test_whatever_a_reply_brings_about_costs_that_reply_alone(error, monkeypatch, caplog):
    from feddat.app.messages import reading

    real = reading._metrics

    def broken(content, client, *others):
        if client == EVE:
            raise error
        return real(content, client, *others)

    monkeypatch.setattr(reading, "_metrics", broken)
    found = run({}, rounds=2)
    assert [(client, kind) for client, kind, _ in refusals(found)] == [(EVE, "train"), (EVE, "evaluate")] * 2
    assert all(reason.startswith(f"cannot be read: {type(error).__name__}") for *_, reason in refusals(found))
    assert is_mean_of_the_honest(found, 3.0)
    assert found.state.refused == 4
    assert all(line.isprintable() for line in logged(caplog))


def test_a_rule_that_breaks_leaves_the_last_good_adapter(caplog):
    """A rule that raises or returns bad numbers changes neither the adapter nor the rule's state."""

    class Breaking(FlowerRule):
        def close(self, clients):
            new = super().close(clients)
            if self._round == 2:
                self.state["momentum_vector/up.bias"] = self.state["momentum_vector/up.bias"] * math.inf
            if self._round == 3:
                new["up.bias"] = new["up.bias"] * math.nan
            if self._round == 4:
                new["up.bias"] = new["up.bias"] + 1e9
            if self._round == 5:
                raise OverflowError("(34, 'Numerical result out of range')")
            return new

    def after(rounds, kind):
        return run({}, rounds, eve=False, rule=kind("fedavgm", {"server_momentum": 0.5}), honest=[Honest("ann", 1.0)])

    broken, good = after(5, Breaking), after(1, FlowerRule)
    assert all((broken.state.shared[key] == good.state.shared[key]).all() for key in good.state.shared)
    assert all((broken.state.rule[key] == good.state.rule[key]).all() for key in good.state.rule)
    assert [event["reason"] for event in broken.events if event["event"] == "kept"] == [
        "Breaking made NaN or infinite values in momentum_vector/up.bias",
        "Breaking made NaN or infinite values in up.bias",
        "Breaking made an adapter 2e+09 away from the one sent, more than 316 (server.max_update)",
        "OverflowError: (34, 'Numerical result out of range')",
    ]
    assert broken.state.refused == 4
    # The rule continues from its last good state: the sixth round equals the second one of an honest rule.
    again = run({}, 6, eve=False, rule=Breaking("fedavgm", {"server_momentum": 0.5}), honest=[Honest("ann", 1.0)])
    second = after(2, FlowerRule)
    assert all((again.state.shared[key] == second.state.shared[key]).all() for key in second.state.shared)
