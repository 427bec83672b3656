"""A client's part in secure sums against a lying server: other adapters, other sets, invented masks; and its disk."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secure_members import Attempt, Members, honest

from feddat.client.store import PersonalStore, StoreError
from feddat.client.summing import Opened, SecureMember
from feddat.privacy.secure_sum.terms import Rules, enough

# --- what clients received --------------------------------------------------------------------------------------------


def test_clients_that_received_different_adapters_send_no_masked_update(tmp_path):
    """One client gets the real adapter, and the others one with which their updates are known in advance."""
    members = Members(tmp_path, 5)
    for name in members.names[1:]:
        members.updates[name] = torch.zeros(members.size)
    attempt = Attempt(members, members.names, received=dict.fromkeys(members.names[1:], -5.0))
    attempt.share()
    attempt.mask(["c0"])
    assert attempt.refused == {
        "c0": "clients received different adapters or settings: c1, c2, c3, c4 not the same as c0"
    }
    assert not attempt.masked


def test_those_that_received_the_same_are_enough_without_the_one_that_did_not(tmp_path):
    members = Members(tmp_path, 5)
    attempt = Attempt(members, members.names, received={"c3": 1.0})
    attempt.share()
    attempt.mask()
    assert attempt.masked == {"c0", "c1", "c2", "c4"} and set(attempt.refused) == {"c3"}
    attempt.open(survivors=members.names)
    assert not attempt.opened()
    assert all("the sum would have c3, whose shares cannot be opened" in attempt.refused[name] for name in ("c0", "c4"))


def test_clients_of_a_run_with_other_settings_make_no_sum(tmp_path):
    members = Members(tmp_path, 3)
    members.of["c1"].rules = Rules(bits=16, settings="a tiny learning rate")
    attempt = Attempt(members, members.names)
    attempt.share()
    attempt.mask()
    assert not attempt.masked and set(attempt.refused) == {"c0", "c1", "c2"}


# --- one sum of a round -----------------------------------------------------------------------------------------------


def test_the_server_cannot_name_a_client_whose_masks_it_made_up(tmp_path):
    """The two sums would differ by this client's update, though both have the same names."""
    members = Members(tmp_path, 5)
    first = honest(members)
    assert len(first.opened()) == 1
    expected = sum(update.numpy() for update in members.updates.values())
    assert np.abs(first.total() - expected).max() < 5 * first.terms.step
    second = Attempt(members, members.names, fakes=["c2"])
    second.share(["c0", "c1", "c3", "c4"])
    second.mask(["c0", "c1", "c3", "c4"])
    assert len(second.masked) == 4, "one client that shares rubbish stops nobody"
    second.open(["c0", "c1", "c3", "c4"], survivors=members.names)
    assert not second.opened()
    assert set(second.refused) == {"c0", "c1", "c3", "c4"}
    assert "the server may have made up their masks" in second.refused["c0"]


@pytest.mark.parametrize("count", [7, 9])
def test_the_others_open_a_second_sum_only_without_those_that_opened_the_first(tmp_path, count):
    """More than half open the sum of all; the others then try one without two of these, to find these two."""
    members = Members(tmp_path, count)
    most = count // 2 + 1
    first = honest(members, revealers=members.names[-most:])
    assert len(first.opened()) == 1
    fresh = members.names[:-most]
    second = honest(members, [*fresh, *members.names[-most:-2]], revealers=fresh)
    assert [names for names, _ in second.opened()] == [frozenset(fresh)], "the difference is of those that opened"
    assert set(members.names[-most:-2]) == set(second.refused)
    assert second.refused[members.names[-3]].startswith("this round's sum was opened before, over other clients")


def test_a_round_is_repeated_after_dropouts_before_its_sum_was_opened(tmp_path):
    members = Members(tmp_path, 5)
    first = Attempt(members, members.names)
    first.share()
    first.mask(members.names[:4])
    first.open(members.names[:2])  # too few agree, so nobody reveals
    assert not first.revealed
    again = honest(members, members.names[1:])
    assert [names for names, _ in again.opened()] == [frozenset(members.names[1:])]


def test_an_opened_round_is_repeated_for_the_same_clients_alone(tmp_path):
    members = Members(tmp_path, 6)
    first = Attempt(members, members.names)
    first.share()
    first.mask(members.names[:5])  # c5 drops out
    first.open(members.names[:4])
    again = Attempt(members, members.names)
    again.share()
    again.mask(members.names[:5])
    again.open(members.names[:5])
    assert [names for names, _ in again.opened()] == [frozenset(members.names[:5])]
    assert np.array_equal(first.total(), again.total())
    other = honest(members)
    assert not other.opened(), "c5 is back, so the sum would be another one"


def test_a_record_of_an_earlier_version_opens_nothing_again(tmp_path):
    members = Members(tmp_path, 3)
    honest(members)
    for name in members.names:
        (tmp_path / name / "sums.json").write_text('{"run": "run", "rounds": {"1": "0123abcd"}}')
    assert not honest(members).opened()


@pytest.mark.parametrize("how", ["restored", "removed"])
def test_a_restored_backup_does_not_forget_what_was_opened(tmp_path, caplog, how):
    """Of five, c0, c1 and c2 open the sum of all. With c0's memory gone, {c0, c3, c4} would give away c1 + c2."""
    members = Members(tmp_path / "state", 5, seals=tmp_path / "seals")
    place = tmp_path / "state" / "c0"
    if how == "restored":
        place.mkdir(parents=True)
        members.of["c0"].store.save(1, {})
        shutil.copytree(place, tmp_path / "backup")
    assert len(honest(members, revealers=["c0", "c1", "c2"]).opened()) == 1
    shutil.rmtree(place)
    if how == "restored":
        shutil.copytree(tmp_path / "backup", place)
    caplog.clear()
    second = honest(members, ["c0", "c3", "c4"])
    assert not second.opened(), "the difference of the two sums is c1 + c2"
    assert second.refused["c0"].startswith("this round's sum was opened before, over other clients")
    assert "restoring an older backup; the copy counts" in caplog.text
    again = honest(members)
    assert [names for names, _ in again.opened()] == [frozenset(members.names)], "the same sum may be opened again"


def test_a_run_whose_files_are_removed_opens_nothing_again(tmp_path):
    """Its states and its key are removed. What is left beside the key says that there is something to know."""
    members = Members(tmp_path / "state", 5, seals=tmp_path / "seals")
    honest(members, revealers=["c0", "c1", "c2"])
    shutil.rmtree(tmp_path / "state" / "c0")
    for path in (tmp_path / "seals" / "c0").glob("[!.]*"):
        path.unlink()
    with pytest.raises(StoreError, match=r"client c0: secure sums: .*\.run\.sums\.json: its seal .*, begin a new run$"):
        honest(members, ["c0", "c3", "c4"])


@pytest.mark.parametrize("which", ["record", "copy"])
@pytest.mark.parametrize("how", ["altered", "no seal", "torn", "not rounds"])
def test_a_record_of_sums_that_was_altered_opens_nothing(tmp_path, which, how):
    members = Members(tmp_path / "state", 5, seals=tmp_path / "seals")
    honest(members, revealers=["c0", "c1", "c2"])
    store = members.of["c0"].store
    record = store.folder / "sums.json"
    path = record if which == "record" else tmp_path / "seals" / "c0" / ".run.sums.json"
    values = json.loads(path.read_text())
    values["rounds"] = {} if how != "not rounds" else {"1": 1}
    if how == "no seal":
        del values["seal"]
    if how == "not rounds":
        values = store.seal.sealed_values(values, "sums.json")
    path.write_text(json.dumps(values)[: 20 if how == "torn" else None])
    with pytest.raises(StoreError, match="client c0: secure sums: ") as caught:
        honest(members, ["c0", "c3", "c4"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("share", "least"), [(0.5, 3), (0.5, 5), (0.67, 3)])
def test_every_two_attempts_that_few_clients_can_make(share, least):
    """Whatever sets a server opens one after the other, the first one's witnesses are not in the second.

    All choices of sizes and members, up to the order of names, for up to seven clients. Clients follow two rules:
    whoever helped to open a sum opens no other of this round, and shares only where ``Opened.allows`` it.
    """
    rules, tried = Rules(share, least), 0
    for everybody, begun in itertools.product(range(least, 8), repeat=2):
        if begun > everybody or enough(rules, begun) > begun:
            continue
        for inside in range(enough(rules, begun), begun + 1):
            first, witnesses = frozenset(range(inside)), frozenset(range(enough(rules, begun)))
            before = Opened(tuple(map(str, sorted(first))), begun)
            for second in subsets(range(everybody)):
                needed = enough(rules, len(second))
                if len(second) < needed:
                    continue
                allowed = second if before.allows([str(name) for name in second]) else second - witnesses
                for total in subsets(sorted(allowed)):
                    helpers = total if total == first else total - witnesses
                    if len(helpers) < needed:
                        continue
                    tried += 1
                    assert total == first or (not total & witnesses and len(first ^ total) >= least)
    assert tried > 10


def subsets(names):
    names = tuple(names)
    for size in range(len(names) + 1):
        yield from map(frozenset, itertools.combinations(names, size))


@pytest.mark.parametrize("early", [True, False])
def test_every_second_attempt_after_a_sum(tmp_path, monkeypatch, early):
    """Real clients, and all combinations of who helps, who is in the second attempt, and whose masks are made up.

    ``early``: the first sum is opened before the second attempt begins; otherwise only one client has gone on to it.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    opened = 0
    choices = itertools.product([range(7), range(3, 7)], [range(7), range(5)], [None, 1, 4], [True, False])
    for number, (first_helpers, second_names, fake, fresh_alone) in enumerate(choices):
        members = Members(tmp_path / str(number), 7, size=1)
        first = Attempt(members, members.names)
        first.share()
        first.mask()
        helpers = {members.names[at] for at in first_helpers}
        if early:
            first.open(helpers)
        names = [members.names[at] for at in second_names]
        fakes = [] if fake is None else [members.names[fake]]
        second = Attempt(members, names, fakes)
        if not early:  # the attempt has ended for all whose offer is newer
            first.open(helpers)
        real = set(names) - set(fakes)
        second.share(real)
        second.mask(real, set(second.server.sharers))
        second.open(real - helpers if fresh_alone else real, second.masked | set(fakes))
        sets = [names for attempt in (first, second) for names, _ in attempt.opened()]
        opened += len(sets)
        for one, other in itertools.combinations(sets, 2):
            assert one == other or len(one ^ other) >= 3, (sets, fakes)
    assert opened > (8 if early else 0)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_server_finds_the_sum_of_fewer_than_the_minimum(tmp_path_factory, monkeypatch, data):
    """Three attempts with names, dropouts, invented masks and sets of its choice, each begun before others end.

    No combination of the opened sums, each times any number, has the updates of fewer clients than the minimum.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    count = data.draw(st.integers(4, 7), "clients")
    members = Members(tmp_path_factory.mktemp("members"), count, size=1)
    some = st.sets(st.sampled_from(members.names), min_size=3)
    attempts = []

    def go_on(attempt):
        if not attempt.masked:
            attempt.share(set(attempt.names) - attempt.fakes)
            attempt.mask(set(attempt.server.sharers) - attempt.fakes, data.draw(some, "sharers") | attempt.fakes)
            return
        survivors = (data.draw(some, "survivors") | attempt.fakes) & set(attempt.names)
        if data.draw(st.booleans(), "all"):
            survivors = attempt.masked | attempt.fakes
        attempt.open((survivors & data.draw(some, "helpers")) - attempt.fakes, survivors)

    for _ in range(3):
        names = data.draw(some, "names")
        fakes = data.draw(st.sets(st.sampled_from(sorted(names)), max_size=1), "fakes")
        attempts.append(Attempt(members, names, fakes))
        for _ in range(data.draw(st.integers(1, 3), "steps")):
            go_on(data.draw(st.sampled_from(attempts), "attempt"))
    sets = list({names for attempt in attempts for names, _ in attempt.opened()})
    rows = np.array([[name in names for name in members.names] for names in sets], dtype=int)
    for numbers in itertools.product((-2, -1, 0, 1, 2), repeat=len(sets)):
        if any(numbers):
            assert np.count_nonzero(numbers @ rows) >= members.rules.least


# --- its disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds a file by its descriptor")
@pytest.mark.parametrize("step", ["share", "mask", "agree"])
def test_after_a_power_cut_no_step_is_taken_twice(tmp_path, monkeypatch, step):
    """The cut puts back what was flushed last of the attempt's state; it must be the state after the step."""
    members, flushed, flush = Members(tmp_path, 3), {}, os.fsync

    def noted(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name.startswith(".sum.json"):
            flushed[path.parent] = path.read_bytes()
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    attempt = Attempt(members, members.names)
    steps = {"share": attempt.share, "mask": attempt.mask, "agree": attempt.open}
    for name, take in steps.items():
        if name == "agree":
            survivors = attempt.terms.bitmap(members.names)
            members.of["c0"].agree("run", 1, survivors)
            break
        take()
        if name == step:
            break
    state = tmp_path / "c0" / "sum.json"
    state.write_bytes(flushed[state.parent])
    (tmp_path / "c0" / "sum.f32").write_bytes(bytes(4 * members.size))
    if step == "agree":
        with pytest.raises(ValueError, match="asked to agree, but the last step of this client was: agree"):
            members.of["c0"].agree("run", 1, survivors)
        return
    steps[step](["c0"])
    assert attempt.refused == {"c0": f"asked to {step}, but the last step of this client was: {step}"}


def test_what_is_left_of_an_update_is_sealed_with_the_clients_own_key(tmp_path):
    """The key lies outside of the state's folder, and the owner then accepts a change of its state."""
    key = tmp_path / "seals" / "run.key"
    key.parent.mkdir()
    members = Members(tmp_path / "state", 3)
    store = PersonalStore(tmp_path / "state", "c0", key=key)
    members.of["c0"] = SecureMember(store, members.rules)
    store.save(1, {"head": torch.zeros(2)})
    honest(members)
    assert store.beside("residual").rounds() == [1]
    assert not (tmp_path / "state" / "c0" / ".seal.key").exists()
    store.accept()
    round, left, _ = store.beside("residual").load(2)
    assert round == 1 and left["left"].shape == (members.size,)
