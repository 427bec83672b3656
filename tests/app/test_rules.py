"""Aggregation rules against numbers computed by hand, their state after a resume, and combinations that are refused."""

import numpy as np
import pytest
import torch
from fakes import Adder, federate, shared

from feddat.algorithms import ALGORITHMS
from feddat.algorithms.server import ServerPart
from feddat.app.checkpoint import Checkpoints, ServerState
from feddat.app.grid import InProcessGrid
from feddat.app.messages import TrainReply
from feddat.app.rules import FLOWER, FlowerRule, MeanRule, check_rule, make_rule
from feddat.config import ConfigError, load_config


@pytest.fixture(autouse=True)
def process():
    InProcessGrid(None, [])  # Flower creates messages only in a process with an identity


def reply(value, loss=1.0, extra=None):
    array = np.array([value], dtype=np.float32)
    extras = {} if extra is None else {"extra": np.array([extra], dtype=np.float32)}
    return TrainReply({"w": array}, extras, 1, {"loss": loss})


def run(rule, start, rounds, state=None, first=1):
    """Run rounds of replies (value, weight) or (value, weight, loss); return the value after each round."""
    at = {"w": torch.tensor([start])}
    rule.start(at, state)
    values = []
    for round, replies in enumerate(rounds, start=first):
        rule.open(round, at)
        for value, weight, *loss in replies:
            rule.add(reply(value, *loss), weight)
        at = rule.close(clients=len(replies))
        assert at["w"].dtype == torch.float32
        values.append(at["w"].item())
    return values


THREE = [(2.0, 1.0), (4.0, 1.0), (12.0, 1.0)]  # mean 6


@pytest.mark.parametrize(
    ("name", "options", "start", "replies", "expected"),
    [
        ("fedavgm", {"server_learning_rate": 0.5}, 1.0, THREE, 3.5),  # 1 - 0.5 * (1 - 6)
        # m = 0.1 * 5; v = 0.01 * 25; rate = 0.1 * sqrt(1 - 0.99^2) / (1 - 0.9^2)
        ("fedadam", {}, 1.0, THREE, 1 + 0.1 * (1 - 0.99**2) ** 0.5 / (1 - 0.9**2) * 0.5 / (0.5 + 1e-3)),
        ("fedyogi", {}, 1.0, THREE, 1 + 0.01 * 0.5 / (0.25**0.5 + 1e-3)),
        ("fedadagrad", {}, 1.0, THREE, 1 + 0.1 * 5 / (5 + 1e-3)),
        ("fedmedian", {}, 1.0, THREE, 4.0),
        ("fedtrimmedavg", {"beta": 0.34}, 1.0, THREE, 4.0),
        ("krum", {}, 1.0, THREE, 2.0),  # 2 and 4 are nearest to each other, and 2 comes first
        ("multikrum", {"num_nodes_to_select": 2}, 1.0, THREE, 3.0),
        ("bulyan", {}, 1.0, THREE, 6.0),
        ("qfedavg", {"q": 0.0, "client_learning_rate": 0.1, "train_loss_key": "train_loss"}, 1.0, THREE, 6.0),
    ],
)
def test_one_round_by_hand(name, options, start, replies, expected):
    assert run(FlowerRule(name, options), start, [replies])[0] == pytest.approx(expected, rel=1e-5)


def test_qfedavg_leans_towards_the_client_with_the_larger_loss():
    """q = 1, L = 1: Delta = F * (w - w_k), h = (w - w_k)^2 + F, for replies 1 with loss 3 and -1 with loss 1."""
    rule = FlowerRule("qfedavg", {"q": 1.0, "client_learning_rate": 1.0, "train_loss_key": "train_loss"})
    assert run(rule, 0.0, [[(1.0, 1.0, 3.0), (-1.0, 1.0, 1.0)]])[0] == pytest.approx((3 - 1) / (1 + 3 + 1 + 1))


def test_momentum_by_hand():
    rounds = [[(1.0, 1.0)], [(3.0, 1.0)]]
    # Round 1: gradient 0 - 1. Round 2: momentum 0.5 * -1 + (1 - 3) = -2.5.
    assert run(FlowerRule("fedavgm", {"server_momentum": 0.5}), 0.0, rounds) == [1.0, 3.5]


def test_weights_are_those_given():
    assert run(FlowerRule("fedavgm", {}), 0.0, [[(1.0, 1.0), (2.0, 3.0)]]) == [1.75]
    assert run(MeanRule(), 0.0, [[(1.0, 1.0), (2.0, 3.0)]]) == [1.75]


OPTIONS = {"fedavgm": {"server_momentum": 0.9}, "fedtrimmedavg": {"beta": 0.34},
           "qfedavg": {"client_learning_rate": 0.1, "train_loss_key": "train_loss"}}  # fmt: skip


@pytest.mark.parametrize("name", FLOWER)
def test_a_resumed_rule_goes_on_bit_by_bit(name, tmp_path):
    generator = np.random.default_rng(0)
    rounds = [[(float(v), 1.0, 0.5) for v in generator.normal(size=5)] for _ in range(4)]
    whole = run(FlowerRule(name, OPTIONS.get(name, {})), 0.3, rounds)
    first = FlowerRule(name, OPTIONS.get(name, {}))
    half = run(first, 0.3, rounds[:2])
    state = ServerState({"w": torch.tensor([half[-1]])}, round=2, rule=first.state)
    store = Checkpoints(tmp_path, "h")
    store.save(state)
    found = store.latest()
    assert list(found.shared) == ["w"]
    second = FlowerRule(name, OPTIONS.get(name, {}))
    assert half + run(second, found.shared["w"].item(), rounds[2:], found.rule, first=3) == whole


class Counter(ServerPart):
    """Add the clients' mean extra array to the mean adapter, count the rounds, and average squares."""

    def start(self, shared):
        return {"rounds": torch.zeros(())}

    def sends(self, state):
        return {"rounds": state["rounds"]}

    def expects(self, shared):
        return {"extra": (1,)}

    def folds(self, shared):
        return {"square": shared["w"] ** 2}

    def finish(self, state, shared, gathered, config):
        self.gathered = gathered
        return {"rounds": state["rounds"] + 1}, {"w": gathered.shared["w"] + gathered.extras["extra"]}


def test_an_algorithms_server_part():
    part = Counter()
    rule = MeanRule(part)
    rule.start({"w": torch.zeros(1)}, None)
    for round in (1, 2):
        assert rule.open(round, {"w": torch.zeros(1)}) == {"rounds": torch.tensor(float(round - 1))}
        rule.add(reply(1.0, extra=10.0), 1.0)
        rule.add(reply(3.0, extra=20.0), 1.0)
        assert rule.close(clients=4) == {"w": torch.tensor([17.0])}
    assert part.gathered.extras["square"].item() == 5.0
    assert (part.gathered.replies, part.gathered.clients) == (2, 4)
    resumed = MeanRule(part)
    resumed.start({"w": torch.zeros(1)}, rule.state)
    assert resumed.open(3, {"w": torch.zeros(1)})["rounds"] == 2


def test_a_rule_works_in_the_loop_of_rounds():
    """Three clients add 1, 2 and 6 to the adapter, so the median moves by 2 each round."""
    state = ServerState(shared())
    clients = [Adder("ann", 1), Adder("bob", 2), Adder("cid", 6)]
    federate(clients, state, rounds=2, rule=FlowerRule("fedmedian", {}))
    assert all(torch.equal(value, torch.full_like(value, 4.0)) for value in state.shared.values())


@pytest.mark.parametrize(
    ("method", "overrides", "replies", "message"),
    [
        ("local", ["server=fedadam"], 5, "server.rule: fedadam aggregates adapters, but method local sends none"),
        ("central", ["server=krum"], 5, "method central sends none"),
        ("fedavg", ["server.options={eta: 0.1}"], 5, "server.options: rule mean has no options .got eta."),
        ("fedavg", ["server=fedadam", "server.options={rate: 1}"], 5, "server.options.rate: unknown to rule fedadam; "
         "its options are eta, eta_l, beta_1, beta_2, tau"),
        ("fedavg", ["server=fedmedian", "server.options={eta: 1}"], 5, "unknown to rule fedmedian; it has no options"),
        ("fedavg", ["server=fedadam", "server.options={eta: fast}"], 5, "server.options.eta: .*valid number"),
        ("fedavg", ["server=fedadam", "server.options={min_train_nodes: 1}"], 5, "min_train_nodes: unknown"),
        ("fedavg", ["server=krum"], 2, "krum with num_malicious_nodes=0 needs the replies of at least 3 clients"),
        ("fedavg", ["server=bulyan", "server.options.num_malicious_nodes=1"], 6, "at least 7 clients"),
        ("fedavg", ["server=multikrum", "server.options.num_nodes_to_select=6"], 5, "at most 5 of 5"),
        ("scaffold", ["server=fedadam"], 5, "method scaffold has its own aggregation and works only with mean"),
        ("feddyn", ["server=krum"], 5, "method feddyn has its own aggregation"),
        ("fedavg", ["server=fedtrimmedavg"], 4, "trims no reply: beta must be at least 1/4"),
        ("fedavg", ["server=fedtrimmedavg", "server.options.beta=0.7"], 4, "beta"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(method, overrides, replies, message):
    config = load_config(None, overrides, method=method)
    with pytest.raises(ConfigError, match=message):
        make_rule(config, ALGORITHMS[method], replies)


def test_too_few_replies_stop_the_round():
    rule = FlowerRule("krum", {})
    with pytest.raises(ValueError, match="needs the replies of at least 3 clients in a round; there are 2"):
        run(rule, 0.0, [THREE[:2]])


def test_the_short_form_names_the_rule(tmp_path):
    assert load_config(None, ["server=fedyogi"]).server.rule == "fedyogi"
    (tmp_path / "run.yaml").write_text("server: fedadam\n")
    config = load_config(tmp_path / "run.yaml", ["server.fraction=0.5", "server.options.eta=1e-2"])
    assert (config.server.rule, config.server.fraction, config.server.options) == ("fedadam", 0.5, {"eta": 0.01})
    assert config.value("server.options.eta") == 0.01
    check_rule(config, ALGORITHMS["feddat"])
