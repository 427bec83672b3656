"""A client's record of approved runs, and its daily counts."""

import datetime
import json

import pytest

from feddat.client import ledger
from feddat.client.approvals import MOST_WAITING, ApprovalError, Approvals, InvalidApprovalError, changes
from feddat.client.ledger import Ledger


def of(folder):
    return Approvals(folder / "state", folder / "seals")


def counts(folder):
    return Ledger(folder / "state", folder / "seals")


def test_a_run_waits_until_it_is_approved(tmp_path):
    approvals = of(tmp_path)
    assert approvals.waiting() == {} and approvals.approved("r") is None
    approvals.wait("r", {"train.lr": 1})
    approvals.wait("s", {})
    assert approvals.waiting() == {"r": {"train.lr": 1}, "s": {}}
    approvals.approve("r")
    assert approvals.waiting() == {"s": {}}
    assert approvals.approved("r") == {"train.lr": 1}
    with pytest.raises(ApprovalError, match="run r: is not waiting for approval; waiting runs: s"):
        approvals.approve("r")


def test_only_the_settings_that_were_shown_are_approved(tmp_path):
    approvals = of(tmp_path)
    approvals.wait("r", {"train.lr": 0.001, "rounds": 3})
    shown = approvals.waiting()["r"]
    approvals.wait("r", {"train.lr": 0.01, "rounds": 3})
    with pytest.raises(
        ApprovalError, match=r"run r: not approved, since it now asks for .* \(train\.lr\); look at them"
    ):
        approvals.approve("r", shown)
    assert approvals.approved("r") is None and "r" in approvals.waiting()
    approvals.approve("r", approvals.waiting()["r"])
    assert approvals.approved("r") == {"train.lr": 0.01, "rounds": 3}
    with pytest.raises(ApprovalError, match="is not waiting"):
        approvals.approve("r", shown)


@pytest.mark.parametrize("run", ["../../x", "", "r"])
def test_what_does_not_wait_cannot_be_approved(tmp_path, run):
    with pytest.raises(ApprovalError, match="waiting runs: none"):
        of(tmp_path).approve(run)
    assert not list(tmp_path.iterdir())


def test_the_newest_few_wait(tmp_path):
    approvals = of(tmp_path)
    for number in range(MOST_WAITING + 5):
        approvals.wait(f"r{number}", {})
    assert list(approvals.waiting()) == [f"r{number}" for number in range(5, MOST_WAITING + 5)]


def test_whoever_can_write_the_states_alone_approves_nothing(tmp_path):
    """Such an account copies a waiting run, alters an approval, or brings back one that no longer holds."""
    approvals, folder = of(tmp_path), tmp_path / "state" / ".policy"
    approvals.wait("r", {"train.lr": 1})
    (folder / "approved").mkdir()
    approved = folder / "approved" / "r.json"
    approved.write_bytes((folder / "waiting" / "r.json").read_bytes())
    with pytest.raises(
        InvalidApprovalError, match=r"r\.json is not what was approved here; it was altered, or is of an"
    ):
        approvals.approved("r")
    approvals.approve("r")
    first = approved.read_bytes()
    approvals.pin("r", {"train.lr": 2})
    approved.write_bytes(first)
    with pytest.raises(InvalidApprovalError, match="is not what was approved here"):
        approvals.approved("r")
    approved.unlink()
    with pytest.raises(InvalidApprovalError, match="is gone"):
        approvals.approved("r")
    approvals.pin("r", {"train.lr": 2})
    assert approvals.approved("r") == {"train.lr": 2}


def test_a_withdrawn_approval_does_not_come_back(tmp_path):
    approvals, approved = of(tmp_path), tmp_path / "state" / ".policy" / "approved" / "r.json"
    with pytest.raises(ApprovalError, match="run r: is not approved; approved runs: none"):
        approvals.withdraw("r")
    approvals.pin("r", {"train.lr": 1})
    content = approved.read_bytes()
    approvals.withdraw("r")
    assert not approved.exists()
    for _ in range(2):
        with pytest.raises(InvalidApprovalError, match="run r: its approval was withdrawn"):
            approvals.approved("r")
        approved.write_bytes(content)
    approvals.wait("r", {"train.lr": 1})
    approvals.approve("r")
    assert approvals.approved("r") == {"train.lr": 1}


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": []}', '{"runs": {"r": 1}}'])
def test_a_damaged_record_of_approvals_approves_nothing(tmp_path, content):
    of(tmp_path).pin("r", {})
    (tmp_path / "seals" / ".approved.json").write_text(content)
    for ask in (of(tmp_path).approved, of(tmp_path).withdraw):
        with pytest.raises(ApprovalError, match=r"\.approved\.json: .*remove it and approve the run"):
            ask("r")


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_approval_is_an_error_and_no_approval(tmp_path, content):
    approvals = of(tmp_path)
    approvals.pin("r", {})
    (tmp_path / "state" / ".policy" / "approved" / "r.json").write_text(content)
    with pytest.raises(ApprovalError, match=r"r\.json: .*remove it"):
        approvals.approved("r")


def test_changes_are_those_of_either_side():
    assert changes({"a": 1, "b": 2}, {"b": 3, "c": None, "a": 1}) == ["b"]
    assert changes({}, {"c": 1}) == ["c"]


def test_counts_are_of_a_day_and_outlive_the_process(tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        day = 1

        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, cls.day, 23, 59, tzinfo=tz)

    monkeypatch.setattr(ledger, "datetime", Clock)
    assert [counts(tmp_path).take("updates", 2) for _ in range(3)] == [True, True, False]
    assert counts(tmp_path).take("evaluations", 1)
    Clock.day = 2
    assert [counts(tmp_path).take("updates", 1) for _ in range(2)] == [True, False]
    assert not counts(tmp_path).take("runs", 0)


def test_runs_that_were_ever_approved_with_the_same_settings_are_told(tmp_path):
    """Their sums may be open, whatever became of the approval since, and of the files beside the states."""
    approvals, one, other = of(tmp_path), {"train.lr": 1}, {"train.lr": 2}
    approvals.pin("r1", one)
    approvals.pin("r2", one)
    assert approvals.alike("new", one) == ["r1", "r2"] and approvals.alike("r1", one) == ["r2"]
    approvals.withdraw("r1")
    approvals.pin("r2", other)
    assert approvals.alike("new", one) == ["r1", "r2"] and approvals.alike("new", other) == ["r2"]
    for file in (tmp_path / "state" / ".policy" / "approved").iterdir():
        file.write_text("{")
    assert approvals.alike("new", one) == ["r1", "r2"]


def test_the_record_of_an_earlier_version_counts(tmp_path):
    of(tmp_path).pin("r1", {"train.lr": 1})
    record = tmp_path / "seals" / ".approved.json"
    record.write_text(json.dumps({"runs": json.loads(record.read_text())["runs"]}))
    assert of(tmp_path).alike("new", {"train.lr": 1}) == ["r1"]
    assert of(tmp_path).approved("r1") == {"train.lr": 1}


COPIES = ["state/today.json", "seals/.today.json"]


@pytest.mark.parametrize("lost", COPIES)
def test_a_copy_that_is_lost_or_old_gives_no_count_back(tmp_path, lost):
    counts(tmp_path).take("updates", 3)
    old = (tmp_path / lost).read_bytes()
    counts(tmp_path).take("updates", 3)
    counts(tmp_path).take("runs", 3)
    for content in (None, old):
        (tmp_path / lost).unlink()
        if content is not None:
            (tmp_path / lost).write_bytes(content)
        assert not counts(tmp_path).take("updates", 2) and not counts(tmp_path).take("runs", 1)
        counts(tmp_path).take("evaluations", 9)
    assert {json.loads((tmp_path / copy).read_text())["updates"] for copy in COPIES} == {2}


@pytest.mark.parametrize("damaged", COPIES)
@pytest.mark.parametrize("content", ["{", "[]", '{"day": "x", "updates": "1"}', '{"updates": true}'])
def test_a_damaged_count_lets_nothing_through(tmp_path, content, damaged):
    counts(tmp_path).take("updates", 1)
    (tmp_path / damaged).write_text(content)
    with pytest.raises(ValueError, match=r"today\.json: damaged; remove it: the other copy"):
        counts(tmp_path).take("updates", 1)
