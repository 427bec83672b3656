"""A client's record of approved runs, and its daily counts."""

import datetime

import pytest

from feddat.client import ledger
from feddat.client.approvals import MOST_WAITING, ApprovalError, Approvals, changes
from feddat.client.ledger import Ledger


def test_a_run_waits_until_it_is_approved(tmp_path):
    approvals = Approvals(tmp_path)
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
    approvals = Approvals(tmp_path)
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
        Approvals(tmp_path / "state").approve(run)
    assert not list(tmp_path.iterdir())


def test_the_newest_few_wait(tmp_path):
    approvals = Approvals(tmp_path)
    for number in range(MOST_WAITING + 5):
        approvals.wait(f"r{number}", {})
    assert list(approvals.waiting()) == [f"r{number}" for number in range(5, MOST_WAITING + 5)]


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_approval_is_an_error_and_no_approval(tmp_path, content):
    approvals = Approvals(tmp_path)
    approvals.pin("r", {})
    (tmp_path / ".policy" / "approved" / "r.json").write_text(content)
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
    assert [Ledger(tmp_path).take("updates", 2) for _ in range(3)] == [True, True, False]
    assert Ledger(tmp_path).take("evaluations", 1)
    Clock.day = 2
    assert [Ledger(tmp_path).take("updates", 1) for _ in range(2)] == [True, False]
    assert not Ledger(tmp_path).take("runs", 0)


@pytest.mark.parametrize("content", ["{", "[]", '{"day": "x", "updates": "1"}', '{"updates": true}'])
def test_a_damaged_count_lets_nothing_through(tmp_path, content):
    Ledger(tmp_path).take("updates", 1)
    (tmp_path / "today.json").write_text(content)
    with pytest.raises(ValueError, match=r"today\.json: damaged; remove it"):
        Ledger(tmp_path).take("updates", 1)
