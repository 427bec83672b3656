"""Client-level privacy over messages: noise of the server, noise in shares, who may take part, and the ledgers."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import Adder, federate, shared
from flwr.app import MessageType
from secure_fakes import Drawn, Dropping, secure_federate

from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState
from feddat.app.client import Site, client_name, make_client_app
from feddat.app.client_level import NoisyMean, Participations
from feddat.app.judge import Judge
from feddat.app.limits import Limits
from feddat.app.messages import Member
from feddat.app.roster import FederationError
from feddat.app.secure_strategy import check_secure, sum_rules
from feddat.client.client_level import NoiseShares
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember, flat
from feddat.config import ConfigError, load_config
from feddat.privacy.noise import NoiseSource
from feddat.privacy.secure_sum.shares_of_noise import noise_share, rounded
from feddat.privacy.secure_sum.terms import plan_of

SETTINGS = {
    "method": "fedavg",
    "rounds": 3,
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "privacy.unit": "client",
    "privacy.clip": 0.5,
    "privacy.noise_seed": 4,
    "share_metrics": "none",
}
SHARES = SETTINGS | {"secure_aggregation.enabled": True, "secure_aggregation.bits": 16, "secure_aggregation.clip": 0.2}


def central(tmp_path, participants, state, rounds=1, values=(), **settings):
    """Run rounds in which the server adds noise; return grid, strategy, events and the ledger."""
    config = load_config(**SETTINGS | dict(values))
    checkpoints = Checkpoints(tmp_path / "checkpoints", "hash")
    participations = Participations(checkpoints, config)
    rule = NoisyMean(None, None, config.privacy.clip, participations, config.privacy.noise_seed)
    found = federate(participants, state, rounds, rule=rule, participations=participations, **settings)
    return (*found, participations)


def test_the_server_adds_noise_once_to_the_mean_of_clipped_updates(tmp_path):
    """The clients move ten numbers by 1, by 0.1 and by 3: norms sqrt(10), 0.316 and 9.5, clipped to 0.5."""
    state = ServerState(shared(0.25))
    _, _, events, paid = central(tmp_path, [Adder("a", 1.0), Adder("b", 0.1), Adder("c", 3.0)], state)
    moved = (0.5 / math.sqrt(10) + 0.1 + 0.5 / math.sqrt(10)) / 3
    source = NoiseSource.seeded(4, "server", 1)
    for key in ("down.weight", "up.bias"):  # the order in which the noise is drawn
        noise = source.normal(state.shared[key].numel()).view(state.shared[key].shape) * paid.noise * 0.5
        assert torch.allclose(state.shared[key].double(), 0.25 + moved + noise / 3, atol=1e-6)
    assert paid.rounds == {"a": 1, "b": 1, "c": 1}
    assert not [event for event in events if event["event"] == "updates"], "nothing is told of single updates"


def test_one_client_moves_the_sum_by_the_norm_at_most(tmp_path):
    """With the same noise seed, the difference between two runs is the part of the one client that differs."""
    found = []
    for at, number in enumerate((0.0, 30.0)):
        state = ServerState(shared())
        central(tmp_path / str(at), [Adder("a", 0.01), Adder("b", number)], state)
        found.append(2 * flat(state.shared).astype(np.float64))
    assert np.linalg.norm(found[1] - found[0]) == pytest.approx(0.5, rel=1e-5)


def test_how_far_an_update_goes_does_not_decide_whether_it_counts(tmp_path):
    """Client b moves far beyond server.max_update. It counts as the others do, clipped: the mean is of three."""
    found = []
    for at, number in enumerate((0.01, 3e5)):
        state = ServerState(shared())
        clients = [Adder("a", 0.01), Adder("b", number), Adder("c", 0.01)]
        limits, judge = Limits(max_update=1e5, clipped=True), Judge(math.inf)
        _, strategy, events, paid = central(tmp_path / str(at), clients, state, limits=limits, judge=judge)
        assert strategy.intake.refused == 0 and not [event for event in events if event["event"] == "refused"]
        assert paid.rounds == {"a": 1, "b": 1, "c": 1}
        found.append(3 * flat(state.shared).astype(np.float64))
    assert np.linalg.norm(found[1] - found[0]) <= 0.5 * (1 + 1e-5)


def test_rounds_are_counted_before_the_run_goes_on_and_never_taken_back(tmp_path):
    clients = [Adder("a"), Adder("b")]
    *_, paid = central(tmp_path, clients, ServerState(shared()), rounds=2)
    assert paid.rounds == {"a": 2, "b": 2} and paid.most == 3
    # The server lost its last checkpoint, but the rounds that it has released stay counted.
    with pytest.raises(FederationError, match=r"privacy: training stops: only 0 clients can .* each may in 3"):
        central(tmp_path, clients, ServerState(shared()), rounds=3)
    ledger = json.loads((tmp_path / "checkpoints" / "privacy.json").read_text())
    assert ledger["rounds"] == {"a": 3, "b": 3} and ledger["unit"] == "client"


def test_a_ledger_of_the_server_that_was_altered_or_is_gone_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "hash")
    central(tmp_path, [Adder("a"), Adder("b")], ServerState(shared()), save=checkpoints.save)
    path = tmp_path / "checkpoints" / "privacy.json"
    good = path.read_text()
    path.write_text(good.replace('"a": 1', '"a": 0'))
    with pytest.raises(CheckpointError, match=r"privacy: .*privacy\.json: altered after it was written"):
        Participations(checkpoints, load_config(**SETTINGS))
    assert checkpoints.accept()
    assert Participations(checkpoints, load_config(**SETTINGS)).rounds == {"a": 0, "b": 1}
    path.unlink()
    with pytest.raises(CheckpointError, match="is gone, though there are checkpoints"):
        Participations(checkpoints, load_config(**SETTINGS))


def test_clients_take_part_as_often_as_is_set_and_then_rest(tmp_path):
    clients = [Adder(name) for name in "abcdef"]
    values = {"privacy.participations": 1, "rounds": 9}
    with pytest.raises(FederationError, match="training stops: only 0 clients"):
        central(tmp_path, clients, ServerState(shared()), rounds=4, values=values, fraction=1 / 3)
    assert [[turn[0] for turn in client.turns].count("fit") for client in clients] == [1] * 6


# --- noise in shares --------------------------------------------------------------------------------------------------


def sums(tmp_path, participants, state, gone=None, values=()):
    """Run one round in which each client adds its share of the noise; return also the settings and the sum's rules."""
    config = load_config(**SHARES | dict(values))
    rules = sum_rules(config)
    by_name = {each.name: each for each in participants}
    stores = {name: PersonalStore(tmp_path, name) for name in by_name}
    members = {name: SecureMember(store, rules, None, NoiseShares(config, store)) for name, store in stores.items()}

    def find(context, run):
        name = client_name(context)
        return Site(Member(name, (name,), {}, "none"), by_name[name], {}, members[name])

    grid = Dropping(make_client_app(find), list(by_name))
    found = secure_federate(participants, state, tmp_path, rules=rules, grid=grid, gone=gone)
    return (*found, config, rules)


@pytest.mark.parametrize("gone", [{}, {(1, "query.mask"): {"c1", "c3"}}, {(1, "query.reveal"): {"c0"}}])
def test_the_new_adapter_is_that_of_updates_and_noise_to_the_last_bit(tmp_path, gone):
    everybody, state = [Drawn(f"c{at}") for at in range(5)], ServerState(shared(0.25))
    sent = flat(state.shared)
    grid, *_, rules = sums(tmp_path, everybody, state, gone)
    plan, total = plan_of(rules, 5, 10), np.zeros(10, np.int64)
    inside = [each for each in everybody if each.name not in gone.get((1, "query.mask"), ())]
    for each in inside:
        source = NoiseSource.seeded(4, each.name, 1)
        update = {key: value - 0.25 for key, value in each.fit(shared(0.25), 1).shared.items()}
        total += rounded(flat(update), plan, source)
        total += noise_share(10, plan, source)
    expected = (sent.astype(np.float64) + total * plan.step / len(inside)).astype(np.float32)
    assert np.array_equal(flat(state.shared).view(np.uint32), expected.view(np.uint32))
    ledgers = {each.name: tmp_path / each.name / "privacy.json" for each in inside}
    for path in ledgers.values():
        (steps,) = json.loads(path.read_text())["steps"]
        assert (steps["count"], steps["concentrated"], steps["noise"]) == (1, True, rules.noise)
    masked = [m for m in grid.up if m.metadata.message_type == "query.mask" and m.has_content()]
    assert {m.content["masked"]["masked"].numpy().nbytes for m in masked} == {20}  # 10 numbers of 16 bits


def test_a_client_that_cannot_pay_sends_no_update(tmp_path):
    everybody, state = [Drawn(f"c{at}") for at in range(4)], ServerState(shared())
    config = load_config(**SHARES)
    poor = NoiseShares(config, PersonalStore(tmp_path, "c2"))
    for round in (1, 2, 3):
        poor.pay(round)
    grid, _, events, *_ = sums(tmp_path, everybody, state)
    refused = [event["client"] for event in events if event["event"] in ("failed", "refused")]
    assert refused == ["c2"] and state.round == 1
    trained = {grid.names[m.metadata.src_node_id] for m in grid.up if m.metadata.message_type == MessageType.TRAIN}
    assert trained == {"c0", "c1", "c2", "c3"}, "these fakes do not look at their budget before they train"


def test_a_ring_without_room_for_noise_is_refused_before_the_first_round():
    config = load_config(**SHARES | {"secure_aggregation.bits": 8})
    algorithm = type("Any", (), {"communicates": True, "server": None, "name": "fedavg"})()
    with pytest.raises(ConfigError, match=r"secure_aggregation\.bits: 8 are too few for the noise of 100 clients"):
        check_secure(config, algorithm, 100, 65_000)
    check_secure(load_config(**SHARES), algorithm, 5, 10)


def test_noise_and_collusion_are_among_what_clients_agree_on():
    from feddat.privacy.secure_sum.terms import Offer, Terms

    rules = sum_rules(load_config(**SHARES))
    names = ("a", "b", "c")
    offers = tuple(Offer(bytes([at]) * 32, bytes([at + 9]) * 32, bytes(16)) for at in range(3))
    one = Terms("run", 1, 4, rules, bytes(32), names, offers)
    for other in (replace(rules, noise=rules.noise * 1.01), replace(rules, colluders=0), replace(rules, norm=1.0)):
        assert Terms("run", 1, 4, other, bytes(32), names, offers).transcript != one.transcript
    assert Terms.from_json(json.loads(json.dumps(one.to_json()))) == one
