"""LoRA-FAIR, FedMosaic, FedLEASE, HiLoRA and pFedMMA, by hand."""

from math import exp

import pytest
import torch
from scalars import LR, START, ScalarLearner, context

from feddat.adapters.base import check_route
from feddat.algorithms import ALGORITHMS, clusters, fedlease, fedmosaic, hilora, lora_fair, pfedmma
from feddat.app.messages import TrainReply
from feddat.app.rules import MeanRule
from feddat.config import ConfigError, load_config


def slope(z):
    """Return d/dz of the task loss for logits (z, 0), where the first class is correct."""
    return 1 / (1 + exp(-z)) - 1


def close(rule, replies, shared):
    """Run a round of a rule with ``replies`` (client -> adapter, extra arrays); return the new shared state."""
    rule.open(1, shared)
    for name, (adapter, extras) in replies.items():
        arrays = [{key: value.numpy() for key, value in part.items()} for part in (adapter, extras)]
        rule.add(TrainReply(*arrays, 1, {"loss": 0.0}), 1.0, name)
    return rule.close(clients=len(replies))


def test_rules_keep_replies_apart_only_for_methods_that_ask_for_it():
    apart = {name for name in ALGORITHMS.own if (server := ALGORITHMS[name].server) is not None and server.apart}
    assert apart == {"fedmosaic", "fedlease", "hilora"}


@pytest.mark.parametrize("method", ["fedmosaic", "fedlease", "hilora"])
def test_means_of_some_clients_are_equal_means(method):
    config = load_config(None, [f"method={method}", "server.weighting=examples"])
    with pytest.raises(ConfigError, match=f"server.weighting: {method} computes its own means with equal weights"):
        ALGORITHMS[method].for_run(config, [])


# LoRA-FAIR ------------------------------------------------------------------------------------------------------------


def test_lora_fair_by_hand():
    """Pairs (A, B) of (1, 2) and (3, 4): mean product 7, means 2 and 3. ΔB = (7 − 6) · 2 / (2² + 0.01)."""
    sent = {"q.lora_A.weight": torch.ones(1, 1), "q.lora_B.weight": torch.zeros(1, 1)}
    rule = MeanRule(ALGORITHMS["lora-fair"].server)
    rule.start(sent, None)
    replies = {name: ({"q.lora_A.weight": torch.tensor([[a]]), "q.lora_B.weight": torch.tensor([[b]])}, {})
               for name, a, b in (("ann", 1.0, 2.0), ("bob", 3.0, 4.0))}  # fmt: skip
    shared = close(rule, replies, sent)
    assert shared["q.lora_A.weight"].item() == 2
    assert shared["q.lora_B.weight"].item() == pytest.approx(3 + 2 / 4.01)


def test_the_correction_is_the_least_of_its_objective():
    generator = torch.Generator().manual_seed(0)
    product, b, a = (torch.randn(shape, generator=generator).double() for shape in ((5, 4), (5, 2), (2, 4)))
    found = lora_fair.correction(product, b, a, 0.3)

    def objective(change):
        return ((product - (b + change) @ a) ** 2).sum() + 0.3 * (change**2).sum()

    for _ in range(20):
        beside = found + 0.01 * torch.randn(5, 2, generator=generator).double()
        assert objective(beside) > objective(found)


# FedMosaic ------------------------------------------------------------------------------------------------------------


def test_relevance_by_hand():
    """Gradients at 0°, 0° and 90° have cosines 1 and 0, so the weights are e² : e² : 1 at τ = ½."""
    weights = fedmosaic.relevance(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]))
    like, other = exp(2) / (2 * exp(2) + 1), 1 / (2 * exp(2) + 1)
    torch.testing.assert_close(weights[0], torch.tensor([like, like, other]))
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_each_client_gets_its_own_mean_and_a_new_one_the_plain_mean():
    sent = {"w": torch.zeros(1, 1)}
    rule = MeanRule(ALGORITHMS["fedmosaic"].server)
    rule.start(sent, None)
    replies = {"ann": ({"w": torch.ones(1, 1)}, {fedmosaic.GRADIENT: torch.tensor([[1.0, 0.0]])}),
               "bob": ({"w": torch.full((1, 1), 3.0)}, {fedmosaic.GRADIENT: torch.tensor([[0.0, 1.0]])})}  # fmt: skip
    assert close(rule, replies, sent)["w"].item() == 2
    own = exp(2) / (exp(2) + 1)
    key = fedmosaic.RELEVANT + "w"
    assert rule.for_client("ann", True)[key].item() == pytest.approx(own + 3 * (1 - own))
    assert rule.for_client("bob", False)[key].item() == pytest.approx(3 * own + (1 - own))
    assert rule.for_client("new", True)[key].item() == 2


def test_fedmosaic_step_by_hand():
    """At gate 0 the mixture is half local, half anchor, and the gate moves with slope σ′(0) = ¼."""

    class Learner(ScalarLearner):
        def adapter(self, name):
            return {"w": self.p[name].view(1, 1) if name != "global" else self.p[name]}

    learner, now = Learner(), context()
    now.state = {fedmosaic.GATE: torch.zeros((), dtype=torch.float64).requires_grad_()}
    now.step = 1  # not a step that renews the task gradient
    learner.also_train([now.state[fedmosaic.GATE]])
    ALGORITHMS["fedmosaic"].step(learner, now)
    c, a, h = START["local"], START["anchor"], START["head"]
    g = slope(h * (c + a) / 2)
    expected = {"local": c - LR * g * h / 2, "head": h - LR * g * (c + a) / 2, "global": START["global"], "anchor": a}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    assert now.state[fedmosaic.GATE].item() == pytest.approx(-LR * g * h * (a - c) / 4, abs=1e-12)


def test_fedmosaic_keeps_a_running_mean_of_gradients_at_the_received_adapter():
    """Steps 0 and 16 renew it; nothing moves by these gradients, and a copy of the local adapter travels."""

    class Learner(ScalarLearner):
        def __init__(self):
            super().__init__()
            self.p |= {name: self.p[name].detach().view(1, 1) for name in ("global", "anchor")}
            self.p["global"].requires_grad_()

        def adapter(self, name):
            return {"w": self.p[name].view(1, 1) if name == "local" else self.p[name]}

        def copy(self, source, target):
            self.p[target].data.fill_(self.p[source].item())

    learner, now, method = Learner(), context(), ALGORITHMS["fedmosaic"]
    received, own = START["global"], torch.tensor([[0.25]], dtype=torch.float64)
    now.received = {fedmosaic.RELEVANT + "w": own}
    method.begin(learner, now)
    assert learner.values() == pytest.approx(START | {"anchor": 0.25, "local": received})
    mean = 0.0
    for now.step in (0, 1, 16):
        head = learner.p["head"].item()
        method.step(learner, now)
        found = slope(head * received) * head
        mean = {0: found, 1: mean, 16: (mean + found) / 2}[now.step]
        assert now.state[fedmosaic.GRADIENT].item() == pytest.approx(mean, abs=1e-12)
    assert learner.values()["global"] == received and learner.p["global"].grad is None
    assert method.finish(learner, now)[fedmosaic.GRADIENT].item() == pytest.approx(mean)
    assert learner.values()["global"] == learner.values()["local"] != received


# FedLEASE -------------------------------------------------------------------------------------------------------------


def test_fedlease_step_by_hand():
    """Of the logits (0, −9, 0), the first and the last count: half own expert, half the other one, which rests."""
    learner, now = ScalarLearner(), context()
    now.received = {fedlease.COUNT: torch.tensor([2.0])}
    now.state = {fedlease.ROUTER: torch.tensor([[0.0], [-9.0], [0.0]], dtype=torch.float64)}
    ALGORITHMS["fedlease"].step(learner, now)
    s, c, h = START["global"], START["local"], START["head"]
    g = slope(h * (s + c) / 2)
    expected = START | {"global": s - LR * g * h / 2, "head": h - LR * g * (s + c) / 2}
    assert learner.values() == pytest.approx(expected, abs=1e-12)
    moved = LR * g * h * (s - c) / 4
    assert now.state[fedlease.ROUTER].flatten().tolist() == pytest.approx([-moved, -9, moved], abs=1e-12)


def test_the_router_always_takes_the_own_expert():
    """M = 2 gives three logits, the first two for the client's own expert; the two largest count.

    In the first row, two of them are equal, so the own expert has a weight of 1 or of ⅔.
    """
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]).log()
    weights = fedlease.expert_weights(logits, 2)
    torch.testing.assert_close(weights[1], torch.tensor([0.25, 0.75]))
    assert weights[0, 0] > 0.6 and weights.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert fedlease.expert_weights(torch.randn(50, 5), 3)[:, 0].min() > 0


def test_experts_are_the_means_of_clusters():
    """The matrices B of ann and bob point in one direction, cat's in another; a client gets its own expert first."""
    key = "q.lora_B.weight"
    sent = {key: torch.zeros(2, 1)}
    rule = MeanRule(ALGORITHMS["fedlease"].server)
    rule.start(sent, None)
    written = {"ann": [1.0, 0.0], "bob": [3.0, 0.1], "cat": [0.0, 5.0]}
    close(rule, {name: ({key: torch.tensor([values]).T}, {}) for name, values in written.items()}, sent)
    assert rule.for_client("ann", True)[fedlease.COUNT].item() == 2
    assert rule.for_client("bob", True)[f"expert.0/{key}"].flatten().tolist() == pytest.approx([2.0, 0.05])
    assert rule.for_client("cat", True)[f"expert.0/{key}"].flatten().tolist() == [0.0, 5.0]
    assert rule.for_client("cat", False)[f"expert.1/{key}"].flatten().tolist() == pytest.approx([2.0, 0.05])
    moved = {name: ({key: torch.tensor([values]).T + 1}, {}) for name, values in written.items()}
    close(rule, moved, sent)
    assert rule.for_client("cat", True)[f"expert.0/{key}"].flatten().tolist() == [1.0, 6.0], "clusters stay"


def test_clusters_by_silhouette():
    """Two pairs at distance 0.1 within and 1 between have silhouette 0.9; three clusters are worse."""
    distances = torch.tensor([[0, 0.1, 1, 1], [0.1, 0, 1, 1], [1, 1, 0, 0.1], [1, 1, 0.1, 0]])
    assert clusters.silhouette(distances, [0, 0, 1, 1]) == pytest.approx(0.9)
    assert clusters.by_silhouette(distances, 3) == [0, 0, 1, 1]
    assert clusters.by_silhouette(distances[:2, :2], 3) == [0, 0]


# HiLoRA ---------------------------------------------------------------------------------------------------------------


def test_subspaces_and_the_eigengap():
    """Columns on the same line have similarity 1 whatever their length; orthogonal ones have similarity 0."""
    key = "q.lora_B.weight"
    lines = [[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, 4.0]]
    similar = clusters.subspace_similarities([{key: torch.tensor([line]).T} for line in lines])
    torch.testing.assert_close(similar, torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)))
    assert clusters.by_eigengap(similar, 3) == [0, 0, 1, 1]
    assert clusters.by_eigengap(torch.ones(4, 4), 3) == [0] * 4, "all alike"


def test_tiers_take_turns():
    assert [hilora.tier(round, 7) for round in range(1, 8)] == ["root"] * 3 + ["cluster"] * 2 + ["leaf"] * 2
    assert hilora.tier(1, 1) == "root"


def test_overlap_by_hand():
    """Columns (1, 0) and (1, 1) against (2, 0): dot products 2 and 2, sum of squares 8."""
    key = "q.lora_B.weight"
    one, other = {key: torch.tensor([[1.0, 1.0], [0.0, 1.0]])}, {key: torch.tensor([[2.0], [0.0]])}
    assert hilora.overlap(one, other).item() == 8


@pytest.mark.parametrize(
    ("round", "on"), [(1, ["global"]), (2, ["global", "anchor"]), (3, ["global", "anchor", "local"])]
)
def test_hilora_step_by_hand(round, on):
    """One tier of the sum moves, away from the square of its product with each tier below it."""

    class Learner(ScalarLearner):
        def adapter(self, name):
            return {"q.lora_B.weight": self.p[name].view(1, 1)}

    learner, moving = Learner(), "local" if round == 3 else "global"
    metrics = ALGORITHMS["hilora"].step(learner, context(round=round, rounds=3))
    total, own, h = sum(START[name] for name in on), START[moving], START["head"]
    below = sum(START[name] ** 2 for name in on if name != moving)
    g = slope(h * total)
    expected = {moving: own - LR * (g * h + 0.1 * 2 * own * below), "head": h - LR * g * total}
    assert learner.values() == pytest.approx(START | expected, abs=1e-12)
    assert metrics["overlap"].item() == pytest.approx(own**2 * below)


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_the_root_rests_when_clusters_train(start):
    """Clusters are of what moved, not of where it is; the numbers below are relative to ``start``."""
    key = "q.lora_B.weight"
    sent = {key: torch.full((2, 1), start)}
    rule = MeanRule(ALGORITHMS["hilora"].for_run(load_config(None, ["method=hilora", "rounds=3"]), [key]).server)
    rule.start(sent, None)
    written = {"ann": [1.0, 0.0], "bob": [1.0, 0.0], "cat": [0.0, 4.0], "dan": [0.0, 2.0]}
    replies = {name: ({key: torch.tensor([values]).T + start}, {}) for name, values in written.items()}

    def moved(adapter):
        return (adapter - start).flatten().tolist()

    root = close(rule, replies, sent)[key]
    assert moved(root) == [0.5, 1.5]
    assert moved(rule.for_client("ann", True)[hilora.CLUSTER + key]) == [0, 0], "as it begins"
    assert torch.equal(close(rule, replies, {key: root})[key], root)
    found = {name: rule.for_client(name, True) for name in (*written, "new")}
    assert moved(found["bob"][hilora.CLUSTER + key]) == [1, 0]
    assert moved(found["cat"][hilora.CLUSTER + key]) == [0, 3]
    assert all(torch.equal(each[hilora.ROOT + key], root) for each in found.values())
    assert moved(found["new"][hilora.CLUSTER + key]) == [0, 0]


@pytest.mark.parametrize("last", range(4))
@pytest.mark.parametrize("route", ["tiers", "global"])
def test_an_exported_hilora_weighs_the_tiers_as_its_answers_do(last, route):
    learner, now, method = ScalarLearner(), context(round=last + 1, rounds=3), ALGORITHMS["hilora"]
    method.answer(learner, route, now)
    assert method.mixture(route, now) == check_route(learner.routes[-1])


# pFedMMA --------------------------------------------------------------------------------------------------------------


def test_pfedmma_step_by_hand():
    """U = 2 and S = 3 have the product 6: both factors move by the chain rule, and the adapter is their product."""

    class Learner(ScalarLearner):
        def __init__(self):
            super().__init__()
            self.p["global"] = torch.tensor([[6.0]], dtype=torch.float64).requires_grad_()
            self.optimizer = torch.optim.SGD([self.p["global"], self.p["head"]], lr=LR)

        def adapter(self, name):
            return {"q" + clusters.BOTTLENECK_UP: self.p[name]}

        def features(self, route):
            return self.p["global"]

    learner, now, mma = Learner(), context(), ALGORITHMS["pfedmma"]
    now.state = {"up.q": torch.tensor([[2.0]], dtype=torch.float64)}
    now.received = {"across.q": torch.tensor([[3.0]], dtype=torch.float64)}
    mma.begin(learner, now)
    mma.step(learner, now)
    g = slope(START["head"] * 6) * START["head"]
    up, across = 2 - LR * 3 * g, 3 - LR * 2 * g
    assert learner.p["global"].item() == pytest.approx(up * across, abs=1e-12)
    assert mma.finish(learner, now)["across.q"].item() == pytest.approx(across, abs=1e-12)
    assert now.state["up.q"].item() == pytest.approx(up, abs=1e-12) and not now.state["up.q"].requires_grad


def test_pfedmma_shares_the_projections():
    server = ALGORITHMS["pfedmma"].server
    sent = {"q" + pfedmma.INNER_BIAS: torch.zeros(2)}
    rule = MeanRule(server)
    rule.start(sent, None)
    assert torch.equal(rule.open(1, sent)["across.q"], torch.eye(2))
    assert rule.expects == {"across.q": (2, 2)}
    replies = {name: (sent, {"across.q": value * torch.eye(2)}) for name, value in (("ann", 1.0), ("bob", 4.0))}
    close(rule, replies, sent)
    assert torch.equal(rule.answers()["across.q"], 2.5 * torch.eye(2))
    shared = [key for key in ("q.bottleneck_down.weight", "q.bottleneck_down.bias", "q.bottleneck_up.weight")
              if ALGORITHMS["pfedmma"].shares(key)]  # fmt: skip
    assert shared == ["q.bottleneck_down.bias"]
