"""A client's privacy budget over all its runs: what counts, what is refused, and what is left when a file is lost."""

import json
import math
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.client.budget import Budget
from feddat.client.store import PersonalStore, StoreError
from feddat.client.totals import TotalError, Totals
from feddat.config import ConfigError, PolicyConfig
from feddat.config.privacy import PrivacyConfig
from feddat.site import read_site

TWENTY = PolicyConfig(privacy="all", total_epsilon=20.0, total_delta=1e-4)


def promised(epsilon, delta=1e-5, unit="record"):
    return PrivacyConfig(epsilon=epsilon, delta=delta, unit=unit)


@pytest.fixture
def totals(tmp_path):
    return Totals("ann", tmp_path / "state", tmp_path / "seals")


def copies(tmp_path):
    return tmp_path / "state" / ".policy" / "spent.json", tmp_path / "seals" / ".total.spent.json"


def test_runs_add_up_and_a_repeated_one_counts_once_at_its_largest_promise(totals):
    assert totals.spent() == {}
    for run, epsilon in (("r1", 8.0), ("r1", 8.0), ("r2", 8.0), ("r1", 6.0)):
        totals.grant(run, promised(epsilon), TWENTY)
    spent = totals.spent()["record"]
    assert (spent.epsilon, spent.runs, str(spent)) == (16.0, 2, "ε 16, δ 2e-05 in 2 runs")
    with pytest.raises(
        TotalError, match=r"policy\.total_epsilon: 20; spent so far: ε 16, δ 2e-05 in 2 runs, and run r3"
    ):
        totals.grant("r3", promised(5.0), TWENTY)
    assert totals.spent()["record"].runs == 2
    totals.grant("r3", promised(4.0), TWENTY)
    with pytest.raises(TotalError, match="total_delta"):
        totals.check("r3", promised(4.0, 9e-5), TWENTY)
    totals.check("r3", promised(4.0), TWENTY)


def test_tenths_add_up_to_their_limit(totals):
    for run in range(10):
        totals.grant(f"r{run}", promised(0.1), PolicyConfig(privacy="all", total_epsilon=1.0))


def test_each_unit_has_a_sum_of_its_own_and_runs_without_privacy_none(totals, tmp_path):
    totals.grant("r1", promised(8.0), TWENTY)
    totals.grant("r2", promised(3.0, unit="client"), TWENTY)
    totals.grant("r3", PrivacyConfig(), TWENTY)
    PersonalStore(tmp_path / "state" / "r3", "ann").save(1, {})
    PersonalStore(tmp_path / "state" / "r1", "ann").save(1, {})
    assert {unit: spent.epsilon for unit, spent in totals.spent().items()} == {"record": 8.0, "client": 3.0}
    assert totals.plain_runs() == ["r3"]


@pytest.mark.parametrize("how", ["removed", "torn", "older"])
@pytest.mark.parametrize("which", [0, 1])
def test_one_copy_is_enough(totals, tmp_path, how, which):
    totals.grant("r1", promised(8.0), TWENTY)
    path = copies(tmp_path)[which]
    older = path.read_bytes()
    totals.grant("r2", promised(8.0), TWENTY)
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(older if how == "older" else path.read_bytes()[:30])
    assert totals.spent()["record"].epsilon == 16.0
    with pytest.raises(TotalError):
        totals.grant("r3", promised(5.0), TWENTY)
    totals.grant("r3", promised(1.0), TWENTY)
    assert len({path.read_bytes() for path in copies(tmp_path)}) == 1


@pytest.mark.parametrize("how", ["removed", "torn"])
def test_without_a_copy_nothing_private_trains_until_what_is_left_is_removed_too(totals, tmp_path, how):
    store = PersonalStore(tmp_path / "state" / "r1", "ann", key=tmp_path / "seals" / "r1.key")
    Budget(store, promised(8.0)).spend(0.1, 1, 5, 20)
    totals.grant("r1", promised(8.0), TWENTY)
    for path in copies(tmp_path):
        path.unlink() if how == "removed" else path.write_text('{"runs"')
    with pytest.raises(StoreError, match=r"client ann: privacy: neither .*spent\.json nor .* can be read, so what"):
        totals.grant("r2", promised(1.0), TWENTY)
    for path in (tmp_path / "seals" / ".total.key", *copies(tmp_path)):
        path.unlink(missing_ok=True)
    assert str(totals.spent()["record"]) == "ε 8, δ 1e-05 in 1 run", "what the run's own ledger says"
    totals.grant("r2", promised(1.0), TWENTY)
    assert totals.spent()["record"].epsilon == 9.0


@pytest.mark.parametrize("left", [0, 1])
def test_a_copy_whose_key_is_gone_is_refused_and_stays(totals, tmp_path, left):
    """As after the loss of the folder of keys: without the key, the copy can be neither believed nor ignored."""
    totals.grant("r1", promised(8.0), TWENTY)
    path = copies(tmp_path)[left]
    before = path.read_bytes()
    shutil.rmtree(tmp_path / "seals") if left == 0 else copies(tmp_path)[0].unlink()
    (tmp_path / "seals" / ".total.key").unlink(missing_ok=True)
    for ask in (totals.grant, totals.check):
        with pytest.raises(
            StoreError, match=r"says what earlier runs have spent, but its key .*\.total\.key is gone"
        ) as no:
            ask("r2", promised(8.0), TWENTY)
        assert "restore the key, or remove" in str(no.value) and "\n" not in str(no.value)
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="its key"):
        totals.spent()


@pytest.mark.parametrize("unit", ["record", "client"])
@pytest.mark.parametrize("spent", [True, False])
def test_a_counted_run_whose_files_are_removed_trains_no_more(totals, tmp_path, unit, spent):
    totals.grant("r1", promised(8.0, unit=unit), TWENTY)
    store = PersonalStore(tmp_path / "state" / "r1", "ann", key=tmp_path / "seals" / "r1.key")
    if spent:
        Budget(store, promised(8.0)).spend(0.1, 1, 5, 20)
    totals.grant("r1", promised(8.0, unit=unit), TWENTY)
    shutil.rmtree(tmp_path / "state" / "r1")
    totals.check("r1", promised(8.0, unit=unit), TWENTY)
    for path in (tmp_path / "seals").glob("r1*"):
        path.unlink()
    for ask in (totals.check, totals.grant):
        for policy in (TWENTY, PolicyConfig()):
            with pytest.raises(
                StoreError, match=r"run r1 trained here before, but its ledger .*privacy\.json is gone, so"
            ):
                ask("r1", promised(8.0, unit=unit), policy)
    assert totals.spent()[unit].epsilon == 8.0 and not (tmp_path / "state" / "r1").exists()
    totals.grant("r2", promised(8.0, unit=unit), TWENTY)


def test_a_ledger_that_is_gone_beside_its_states_is_not_begun_anew(totals, tmp_path):
    store = PersonalStore(tmp_path / "state" / "r1", "ann", key=tmp_path / "seals" / "r1.key", promise="all")
    store.save(1, {})
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"client ann: privacy: run r1 trained here with privacy, but its ledger .* is"
        ):
            totals.grant("r1", promised(8.0), TWENTY)
        with pytest.raises(StoreError, match="remove the files of run r1, which then no longer counts"):
            totals.grant("r2", promised(8.0), TWENTY)
    assert not (store.folder / "privacy.json").exists()


@pytest.mark.parametrize("unit", ["record", "client"])
def test_where_all_copies_are_removed_every_ledger_that_is_left_counts(totals, tmp_path, unit):
    """Also of a run whose server adds the noise, and of one whose states are gone while its copy is not."""
    for run in ("r1", "r2"):
        totals.grant(run, promised(8.0, unit=unit), TWENTY)
    shutil.rmtree(tmp_path / "state" / "r2")
    for path in (tmp_path / "seals" / ".total.key", *copies(tmp_path)):
        path.unlink()
    assert str(totals.spent()[unit]) == "ε 16, δ 2e-05 in 2 runs"
    (tmp_path / "seals" / "r2.key").unlink()
    with pytest.raises(StoreError, match=r"r2\.spent\.json: its seal cannot be checked.*or remove the files of run r2"):
        totals.spent()


def test_an_altered_copy_is_refused(totals, tmp_path):
    totals.grant("r1", promised(8.0), TWENTY)
    for path in copies(tmp_path):
        good = path.read_text()
        path.write_text(good.replace("8.0", "0.8"))
        with pytest.raises(StoreError, match=r"spent\.json: altered after it was written: its seal does not match"):
            totals.spent()
        path.write_text(good)
    values = json.loads(good)
    del values["seal"]
    for path in copies(tmp_path):
        path.write_text(json.dumps(values))
    with pytest.raises(StoreError, match="neither"):
        totals.spent()


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0.1, 9.0), st.sampled_from(["keep", "first", "second"])),
        max_size=8,
    )
)
def test_whatever_is_asked_and_lost_the_total_is_never_exceeded(tmp_path_factory, steps):
    """One copy of the two may be lost after each step; the sum over all granted runs stays within the total."""
    place = tmp_path_factory.mktemp("ann")
    totals, granted = Totals("ann", place / "state", place / "seals"), dict[str, float]()
    for run, epsilon, lost in steps:
        try:
            totals.grant(run, promised(epsilon), TWENTY)
            granted[run] = max(granted.get(run, 0.0), epsilon)
        except TotalError:
            assert math.fsum({**granted, run: max(granted.get(run, 0.0), epsilon)}.values()) > 20.0
        if granted and lost != "keep":
            copies(place)[lost == "second"].unlink(missing_ok=True)
            totals.grant(next(iter(granted)), promised(0.1), TWENTY)  # mends the copy
        assert math.fsum(granted.values()) <= 20.0 * (1 + 1e-9)
        assert {run: own["record"][0] for run, own in totals.runs().items()} == granted


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (
            {"approval": "first-use", "privacy": "all"},
            "first-use with privacy all lets a server begin runs without end",
        ),
        ({"total_epsilon": 8.0}, "total_epsilon: runs without privacy have no total; set privacy to a level"),
        ({"total_delta": 1e-5}, "total_delta: runs without privacy have no total"),
        ({"privacy": "all", "total_epsilon": 0}, "total_epsilon"),
        ({"privacy": "all", "approval": "first-use", "total_epsilon": 8.0}, None),
        ({"privacy": "all"}, None),
        ({"approval": "first-use"}, None),
    ],
)
def test_what_a_policy_can_say_about_a_total(tmp_path, policy, reason):
    (tmp_path / "client.yaml").write_text(json.dumps({"client": "ann", "data": {}, "policy": policy}))
    if reason is None:
        read_site(tmp_path / "client.yaml")
        return
    with pytest.raises(ConfigError, match=reason) as caught:
        read_site(tmp_path / "client.yaml")
    assert "\n" not in str(caught.value)
