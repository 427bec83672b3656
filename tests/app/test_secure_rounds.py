"""Rounds with secure aggregation: the sum and who is in it, whichever clients drop out in whichever phase."""

import math
import shutil

import numpy as np
import pytest
import torch
from fakes import shared
from flwr.app import ArrayRecord, ConfigRecord
from secure_fakes import PHASES, Drawn, Dropping, plain_mean, secure_app, secure_federate

from feddat.app import messages
from feddat.app.arrays import read_array
from feddat.app.checkpoint import ServerState
from feddat.app.limits import Limits
from feddat.app.roster import FederationError
from feddat.client.summing import flat
from feddat.privacy.secure_sum.terms import Rules


def clients(count):
    return [Drawn(f"c{i:02}") for i in range(count)]


def bits_equal(found, expected):
    return np.array_equal(np.asarray(found).view(np.uint32), np.asarray(expected).view(np.uint32))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("count", "share"), [(5, 0.0), (5, 0.2), (5, 0.4), (10, 0.3)])
def test_the_new_adapter_is_the_fixed_point_mean_to_the_last_bit(tmp_path, phase, count, share):
    everybody, state = clients(count), ServerState(shared(0.25))
    gone = {each.name for each in everybody[1 : 1 + math.ceil(share * count)]}
    sent = flat(state.shared)
    _, strategy, events = secure_federate(everybody, state, tmp_path, gone={(1, PHASES[phase]): gone})
    in_it = [c for c in everybody if c.name not in gone or phase in ("agree", "reveal")]
    offered = count - (len(gone) if phase == "keys" else 0)
    expected = plain_mean(sent, [flat(c.update(1, state.shared)) for c in in_it], strategy.sums, offered)
    assert bits_equal(flat(state.shared), expected)
    assert not np.array_equal(sent, expected)
    assert not [event for event in events if event["event"] == "kept"]
    assert strategy.intake.failed == len(gone), "each drops out once"
    assert strategy.intake.refused == 0


def test_what_is_lost_in_one_round_comes_in_the_next(tmp_path):
    """With the same update in three rounds, the sum of the means differs from the exact one only by one rounding."""
    everybody, state = clients(3), ServerState(shared())
    for each in everybody:
        each.update = lambda round, like, each=each: Drawn.update(each, 1, like)
    secure_federate(everybody, state, tmp_path, rounds=3, rules=Rules(bits=8, clip=0.02))
    exact = 3 * np.mean([flat(each.update(1, state.shared)) for each in everybody], axis=0)
    step = 0.02 / 42
    assert np.abs(flat(state.shared) - exact).max() <= step / 2 * 1.001
    assert np.abs(flat(state.shared) - exact).max() > 0


def test_too_few_in_the_end_open_nothing_and_the_adapter_stays(tmp_path):
    state = ServerState(shared(0.5))
    gone = {(1, PHASES["reveal"]): {"c00", "c01", "c02"}}
    _, strategy, events = secure_federate(clients(5), state, tmp_path, rounds=2, gone=gone)
    kept = [event for event in events if event["event"] == "kept"]
    assert [event["round"] for event in kept] == [1]
    assert "reveal: 2 of 5 clients revealed their shares, expected at least 3" in kept[0]["reason"]
    assert strategy.intake.failed == 3
    assert state.round == 2
    assert not np.array_equal(flat(state.shared), np.full(10, 0.5, np.float32)), "the second round went on from it"


@pytest.mark.parametrize("phase", ["share", "mask", "agree"])
def test_too_few_before_stop_the_run(tmp_path, phase):
    state = ServerState(shared(0.5))
    gone = {(1, PHASES[phase]): {"c00", "c01", "c02"}}
    problem = f"round 1, {phase}: 2 of 5 clients could do their part, expected at least 3; no update of theirs can be"
    with pytest.raises(FederationError, match=problem):
        secure_federate(clients(5), state, tmp_path, gone=gone)
    assert state.round == 0
    assert bool((state.shared["up.bias"] == 0.5).all())
    # Resumed with all clients, the run ends as if nothing had happened.
    secure_federate(clients(5), state, tmp_path)
    other = ServerState(shared(0.5))
    secure_federate(clients(5), other, tmp_path / "other")
    assert bits_equal(flat(state.shared), flat(other.shared))


@pytest.mark.parametrize("count", [1, 2])
def test_no_sum_of_one_or_two(tmp_path, count):
    with pytest.raises(FederationError, match=f"round 1: {count} clients in the sum, expected at least 3"):
        secure_federate(clients(count), ServerState(shared()), tmp_path)


def test_two_left_of_five_are_no_sum(tmp_path):
    gone = {(1, PHASES["keys"]): {"c00", "c01", "c02"}}
    with pytest.raises(FederationError, match="2 clients in the sum"):
        secure_federate(clients(5), ServerState(shared()), tmp_path, gone=gone)


def test_a_server_killed_after_the_sum_was_opened_gets_the_same_one_again(tmp_path):
    once, twice = ServerState(shared()), ServerState(shared())
    secure_federate(clients(4), once, tmp_path)
    secure_federate(clients(4), twice, tmp_path)
    assert bits_equal(flat(once.shared), flat(twice.shared))


def test_a_server_that_asks_again_for_one_client_less_gets_nothing(tmp_path):
    """The difference between the two sums would be that client's update."""
    secure_federate(clients(5), ServerState(shared()), tmp_path)
    gone = {(1, PHASES["mask"]): {"c03"}}
    with pytest.raises(FederationError, match="no client could do its part") as error:
        secure_federate(clients(5), ServerState(shared()), tmp_path, gone=gone)
    assert "this round's sum was opened before, over other clients" in str(error.value)


def test_a_client_killed_in_mid_round_goes_on_from_its_disk(tmp_path):
    """Every message reaches a new process, so no part of an attempt may be only in memory."""
    everybody = clients(4)

    class Forgetting(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            self._app = secure_app(everybody, tmp_path, Rules())
            yield from super().send_and_receive(messages, timeout=timeout)

    grid = Forgetting(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    one, other = ServerState(shared()), ServerState(shared())
    secure_federate(everybody, one, tmp_path, rounds=2, grid=grid)
    secure_federate(everybody, other, tmp_path / "other", rounds=2)
    assert bits_equal(flat(one.shared), flat(other.shared))


def test_nothing_but_what_the_protocol_says_leaves_a_client(tmp_path):
    grid, _, _ = secure_federate(clients(4), ServerState(shared()), tmp_path, rounds=2)
    allowed = {
        "train": {"metrics", "sum"},
        "query.mask": {"masked", "sum"},
        "evaluate": {"metrics"},
        "query": {"config"},
    }
    for message in grid.up:
        kind = message.metadata.message_type
        assert set(message.content) == allowed.get(kind, {"sum"}), kind
    masked = [m for m in grid.up if m.metadata.message_type == "query.mask"]
    assert len(masked) == 8
    for message in masked:
        assert message.content["masked"]["masked"].numpy().nbytes == 15  # 10 numbers of 12 bits


def test_certificates_and_keys_of_the_run_travel_once(tmp_path):
    grid, _, _ = secure_federate(clients(4), ServerState(shared()), tmp_path, rounds=3)
    fresh = [len(m.content["sum"].get("fresh", [])) for m in grid.down if m.metadata.message_type == "query.share"]
    assert fresh == [3] * 4 + [0] * 8


def test_a_client_that_lost_its_disk_is_shown_everything_again(tmp_path):
    everybody = clients(4)

    class Losing(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            if messages[0].metadata.message_type == "train" and messages[0].metadata.group_id == "2":
                shutil.rmtree(tmp_path / "c01")
            yield from super().send_and_receive(messages, timeout=timeout)

    grid = Losing(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    _, _strategy, events = secure_federate(everybody, ServerState(shared()), tmp_path, rounds=3, grid=grid)
    failed = [(event["round"], event["client"]) for event in events if event["event"] == "failed"]
    assert failed == [(2, "c01")]
    reason = next(event["reason"] for event in events if event["event"] == "failed")
    assert "no key of this run is known of c00, c02, c03" in reason


@pytest.mark.parametrize(
    ("kind", "record", "problem"),
    [
        ("train", {}, "its part in the sum is not bytes"),
        ("train", {"bytes": b"x"}, "an offer of 1 bytes"),
        ("train", {"bytes": bytes(80)}, "a public key is invalid"),
        ("query.share", {"bytes": b"x"}, "1 bytes of sealed shares"),
        ("query.agree", {"bytes": b"x"}, "1 bytes of tags"),
        ("query.reveal", {"bytes": b"x"}, "1 bytes of shares"),
        ("query.reveal", {"bytes": "x"}, "its part in the sum is not bytes"),
    ],
)
def test_what_a_client_sends_in_place_of_its_part_costs_its_part_alone(tmp_path, kind, record, problem):
    everybody = clients(5)

    class Lying(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.message_type == kind and self.names[reply.metadata.src_node_id] == "c02":
                    reply.content["sum"] = ConfigRecord(record)
                yield reply

    grid = Lying(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    state = ServerState(shared())
    _, strategy, events = secure_federate(everybody, state, tmp_path, grid=grid)
    refused = [(event["client"], event["reason"]) for event in events if event["event"] == "refused"]
    assert len(refused) == 1 and refused[0][0] == "c02" and problem in refused[0][1]
    in_it = [c for c in everybody if c.name != "c02" or kind in ("query.agree", "query.reveal")]
    zeros = shared()
    updates = [flat(c.update(1, zeros)) for c in in_it]
    expected = plain_mean(flat(zeros), updates, strategy.sums, 4 if kind == "train" else 5)
    assert bits_equal(flat(state.shared), expected)


def test_one_that_seals_rubbish_for_the_others_spoils_one_round_and_is_left_out(tmp_path):
    everybody = clients(5)

    class Lying(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.message_type == "query.share" and self.names[reply.metadata.src_node_id] == "c02":
                    reply.content["sum"] = ConfigRecord({"bytes": bytes(len(reply.content["sum"]["bytes"]))})
                yield reply

    grid = Lying(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    state = ServerState(shared(0.5))
    _, _, events = secure_federate(everybody, state, tmp_path, rounds=3, grid=grid)
    # The others would not open a sum with a client in it whose shares they cannot open.
    kept = [event["reason"] for event in events if event["event"] == "kept"]
    assert kept == ["client c02's secret: 4 of 5 clients cannot open their shares of it"]
    refused = [(event["round"], event["client"], event["reason"]) for event in events if event["event"] == "refused"]
    left_out = "is left out: it sealed shares that open nothing in round 1"
    assert refused == [(2, "c02", left_out), (3, "c02", left_out)]
    assert not bool((state.shared["up.bias"] == 0.5).any()), "the others have gone on"


class Random(Dropping):
    """A grid on which c02 sends random bytes as its masked update, in some rounds."""

    rounds = range(100)

    def send_and_receive(self, messages_, *, timeout=None):
        generator = np.random.default_rng(0)
        for reply in super().send_and_receive(messages_, timeout=timeout):
            step, round = reply.metadata.message_type, int(reply.metadata.group_id or 0)
            if step == "query.mask" and self.names[reply.metadata.src_node_id] == "c02" and round in self.rounds:
                size = len(read_array(reply.content["masked"]["masked"]))
                noise = generator.integers(0, 256, size, dtype=np.uint8)
                reply.content["masked"] = ArrayRecord({"masked": messages.to_array(noise)})
            yield reply


def wide():
    """Return an adapter with so many numbers that random ones do not all fit the ring."""
    return {"w": torch.zeros(300, 100)}


def random_grid(everybody, folder, rounds=range(100)):
    grid = Random(secure_app(everybody, folder, Rules()), [each.name for each in everybody])
    grid.rounds = rounds
    return grid


def test_a_run_stops_after_two_useless_sums_and_goes_on_without_the_client_that_sent_rubbish(tmp_path):
    everybody, state = clients(5), ServerState(wide())
    with pytest.raises(FederationError) as error:
        secure_federate(everybody, state, tmp_path, rounds=8, grid=random_grid(everybody, tmp_path))
    told = str(error.value)
    assert told.startswith("round 3: the sums of rounds 1 and 2 gave no adapter")
    assert "clients in both: c00, c01, c02, c03, c04" in told and "feddat deploy revoke" in told
    assert told.endswith("everything up to here is kept, and the run can be resumed")
    assert state.round == 2, "so a resumed run need not repeat a round whose sum was opened for the same clients"
    assert not state.shared["w"].any()
    rest = [each for each in everybody if each.name != "c02"]
    secure_federate(rest, state, tmp_path, rounds=3)
    assert state.round == 3 and state.shared["w"].any()


def test_useless_sums_that_are_not_in_a_row_do_not_stop_a_run(tmp_path):
    everybody, state = clients(5), ServerState(wide())
    grid = random_grid(everybody, tmp_path, (1, 3))
    _, _, events = secure_federate(everybody, state, tmp_path, rounds=4, grid=grid)
    assert [event["round"] for event in events if event["event"] == "kept"] == [1, 3]


def test_a_client_that_drops_out_of_the_second_useless_sum_does_not_make_the_round_begin_again(tmp_path):
    everybody, state = clients(5), ServerState(wide())
    grid = random_grid(everybody, tmp_path)
    said = r"rounds 1 and 2 gave no adapter.* \(clients in both: c00, c01, c02, c03\)"
    with pytest.raises(FederationError, match=said):
        secure_federate(everybody, state, tmp_path, rounds=8, grid=grid, gone={(2, PHASES["mask"]): {"c04"}})


def test_a_run_stops_after_two_means_that_are_too_far(tmp_path):
    """With noise in shares every number is in the ring, so only the mean can show that a client's are none."""
    state = ServerState(shared(0.5))
    with pytest.raises(FederationError, match="round 3: the sums of rounds 1 and 2 gave no adapter"):
        secure_federate(clients(5), state, tmp_path, rounds=8, limits=Limits(max_update=1e-6))
    assert state.round == 2


def test_nobody_is_blamed_for_shares_that_could_be_anothers_fault(tmp_path):
    """Of three clients all must reveal, so a wrong share can be that of its owner or that of whoever revealed it."""
    everybody, state = clients(3), ServerState(shared(0.5))

    class Lying(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.message_type == "query.reveal" and self.names[reply.metadata.src_node_id] == "c02":
                    reply.content["sum"] = ConfigRecord({"bytes": bytes(len(reply.content["sum"]["bytes"]))})
                yield reply

    grid = Lying(secure_app(everybody, tmp_path, Rules()), [each.name for each in everybody])
    with pytest.raises(FederationError, match="the sums of rounds 1 and 2 gave no adapter"):
        secure_federate(everybody, state, tmp_path, rounds=8, grid=grid)


def test_a_run_stops_if_in_the_end_too_few_reveal_their_shares_twice(tmp_path):
    gone = {(round, PHASES["reveal"]): {"c00", "c01", "c02"} for round in (1, 2)}
    with pytest.raises(FederationError, match="the sums of rounds 1 and 2 gave no adapter: too few clients revealed"):
        secure_federate(clients(5), ServerState(shared()), tmp_path, rounds=8, gone=gone)


def test_examples_beyond_what_a_client_registered_with_are_refused_as_ever(tmp_path):
    everybody = clients(5)
    everybody[1].examples = 10**8
    _, strategy, events = secure_federate(everybody, ServerState(shared()), tmp_path)
    assert strategy.intake.refused == 1
    assert "more than 10000000" in next(event["reason"] for event in events if event["event"] == "refused")


def test_masked_updates_are_not_the_update(tmp_path):
    """Two runs mask the same update differently; numbers are equal only by chance."""
    grids = [
        secure_federate([Large(f"c{i:02}") for i in range(3)], ServerState(large()), tmp_path / str(i))[0]
        for i in range(2)
    ]
    first, second = (
        next(m for m in grid.up if m.metadata.message_type == "query.mask").content["masked"]["masked"].numpy()
        for grid in grids
    )
    assert np.mean(first == second) < 0.01


class Large(Drawn):
    pass


def large():
    return {"w": torch.zeros(100, 100)}
