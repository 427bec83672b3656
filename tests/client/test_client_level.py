"""Client-level privacy on the client's side: the clipped update, the budget, and what is refused."""

import json
import math

import pytest
import torch
from small_clients import vqa_client

from feddat.algorithms import ALGORITHMS
from feddat.client.budget import Budget, BudgetError
from feddat.client.client_level import NoiseShares, server_noise, share_noise
from feddat.client.private_rules import check_privacy
from feddat.client.store import PersonalStore, StoreError
from feddat.config import ConfigError, load_config
from feddat.privacy.accounting import Steps, epsilon_of
from feddat.privacy.norms import clipped

CLIENTS = {
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "privacy.unit": "client",
    "privacy.clip": 0.01,
    "privacy.noise_seed": 1,
    "share_metrics": "none",
}
SHARES = CLIENTS | {"secure_aggregation.enabled": True}


def test_an_update_is_clipped_over_all_its_tensors():
    base = {"a": torch.tensor([1.0]), "b": torch.tensor([[0.0, 2.0]])}
    new = {"a": torch.tensor([4.0]), "b": torch.tensor([[4.0, 2.0]])}
    found = clipped(new, base, 1.0)
    assert torch.allclose(found["a"], torch.tensor([1.6])) and torch.allclose(found["b"], torch.tensor([[0.8, 2.0]]))
    within = clipped(new, base, 5.1)
    assert torch.equal(within["a"], new["a"]) and torch.equal(within["b"], new["b"])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_changes_nothing(wrong):
    base = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    found = clipped({"a": torch.tensor([wrong]), "b": torch.tensor([3.0])}, base, 1.0)
    assert found["a"].tolist() == [1.0] and found["b"].tolist() == [2.0]


@pytest.mark.parametrize("settings", [CLIENTS, SHARES])
def test_what_a_client_sends_is_within_the_norm_and_what_it_keeps_is_not_clipped(process, settings):
    p = process("feddat", **settings)
    museum, shared = p.participant(vqa_client("museum")), p.initial()
    sent = museum.fit(shared, 1).shared
    moved = math.sqrt(sum(float((sent[key].double() - shared[key]).square().sum()) for key in shared))
    assert moved == pytest.approx(0.01, rel=1e-4), "the whole norm is used"
    plain = process("feddat")
    free = plain.participant(vqa_client("museum")).fit(plain.initial(), 1).shared
    factor = {float(x) for key in shared for x in ((sent[key] - shared[key]) / (free[key] - shared[key])).flatten()[:2]}
    assert max(factor) == pytest.approx(min(factor), rel=1e-2), "and the direction is that of the same training"


# --- the budget when each client adds a share of the noise ------------------------------------------------------------


def test_rounds_are_paid_when_an_update_leaves_and_stop_before_the_budget_is_gone(tmp_path):
    config = load_config(**SHARES | {"privacy.noise_multiplier": 2.0})
    store = PersonalStore(tmp_path, "ann")
    shares, budget = NoiseShares(config, store), Budget(store, config.privacy)
    rounds = 0
    with pytest.raises(BudgetError, match=r"client ann: privacy: training stops: \d+ rounds are done, and 1 more"):
        for round in range(1, 100):
            shares.check()
            assert sum(part.count for part in budget.spent()) == rounds, "asked for, and not paid yet"
            shares.pay(round)
            rounds = round
    assert budget.spent() == [Steps(1.0, 2.0, 1, rounds, concentrated=True)]
    assert epsilon_of(budget.spent(), 1e-3) <= 8.0 < epsilon_of([Steps(1.0, 2.0, 1, rounds + 1, True)], 1e-3)


def test_planned_rounds_fit_and_participations_are_kept_to(tmp_path):
    config = load_config(**SHARES | {"rounds": 100, "privacy.participations": 4})
    shares = NoiseShares(config, PersonalStore(tmp_path, "ann"))
    for round in range(1, 5):
        shares.check()
        shares.pay(round)
    with pytest.raises(BudgetError, match=r"took part in 4 rounds, which is privacy\.participations"):
        shares.check()
    everybody = load_config(**SHARES | {"rounds": 100})
    assert share_noise(config) < share_noise(everybody) / 3


def test_noise_in_shares_takes_a_little_more_than_noise_of_the_server():
    assert (
        server_noise(load_config(**CLIENTS))
        < share_noise(load_config(**SHARES))
        < 1.2 * server_noise(load_config(**CLIENTS))
    )


def test_a_source_is_another_one_for_each_client_and_round(tmp_path):
    config = load_config(**SHARES)
    drawn = {
        NoiseShares(config, PersonalStore(tmp_path / str(at), name)).pay(round).seed()
        for at, (name, round) in enumerate([("ann", 1), ("ann", 2), ("bob", 1)])
    }
    assert len(drawn) == 3


# --- the ledger's seal ------------------------------------------------------------------------------------------------


@pytest.fixture
def paid(tmp_path):
    """Return settings, store and ledger file of a client that has paid for two rounds and has stored a state."""
    config, store = load_config(**SHARES), PersonalStore(tmp_path, "ann")
    for round in (1, 2):
        NoiseShares(config, store).pay(round)
    store.save(2, {"a": torch.zeros(1)})
    return config, store, store.folder / "privacy.json"


def test_a_ledger_that_was_altered_is_refused_until_it_is_accepted(paid):
    config, store, path = paid
    text = json.loads(path.read_text())
    text["steps"][0]["count"] = 1
    path.write_text(json.dumps(text))
    with pytest.raises(StoreError, match=r"client ann: privacy: .*privacy\.json: altered after it was written"):
        NoiseShares(config, store).check()
    store.accept()
    assert Budget(store, config.privacy).spent()[0].count == 1


def test_a_ledger_without_its_seal_is_refused(paid):
    config, store, path = paid
    text = json.loads(path.read_text())
    del text["seal"]
    path.write_text(json.dumps(text))
    with pytest.raises(StoreError, match="it has no seal"):
        NoiseShares(config, store).check()


def test_a_ledger_that_is_gone_is_no_new_budget(paid):
    config, store, path = paid
    path.unlink()
    with pytest.raises(StoreError, match=r"privacy\.json is gone, though .* has states that it paid for"):
        NoiseShares(config, store).check()


def test_a_ledger_of_an_earlier_version_is_sealed_with_the_states(tmp_path):
    config, store = load_config(**SHARES), PersonalStore(tmp_path, "ann")
    store.folder.mkdir()
    (store.folder / "privacy.json").write_text(json.dumps({"epsilon": 8.0, "steps": []}))
    NoiseShares(config, store).check()
    store.save(1, {"a": torch.zeros(1)})
    assert "seal" in json.loads((store.folder / "privacy.json").read_text())
    NoiseShares(config, store).pay(1)


# --- what can be combined with it -------------------------------------------------------------------------------------


def refusal(values):
    try:
        check_privacy(load_config(**CLIENTS | values))
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("method", ALGORITHMS.own)
def test_methods_that_send_an_adapter_alone_can_and_others_are_refused(method):
    cannot = {"central", "local", "head", "scaffold", "fedex-lora", "fedlease", "fedmosaic", "pfedmma"}
    found = refusal({"method": method})
    if method in cannot:
        assert found is not None and found.startswith("privacy.unit: client, but ")
    elif method != "hilora":  # HiLoRA makes its server part for each run
        assert found is None or "looks at every client's by itself" in found


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"share_metrics": "counts"}, "share_metrics is counts: losses, scores"),
        ({"server.weighting": "examples"}, "server.weighting is examples: a weight tells"),
        ({"server.rule": "fedadam"}, "server.rule is fedadam: it needs every client's own update"),
        ({"server.max_outlier": 3.0}, "server.max_outlier is 3.0: one client's data would decide"),
        ({"privacy.scope": "shared"}, "privacy.scope is shared: a scope says which part of a record's training"),
        ({"privacy.unit": "record", "privacy.participations": 3}, "privacy.participations is 3: records are paid for"),
    ],
)
def test_what_is_refused(values, reason):
    assert reason in refusal({"method": "fedavg"} | values)


def test_what_needs_no_gradients_by_example_is_allowed():
    values = {"momentum.alpha": 0.1, "train.clip_norm": 1.0, "train.checkpointing": True, "adapter.peft": "prompt"}
    assert refusal({"method": "fedavg", "algorithm.personal_epochs": 1} | values) is None
