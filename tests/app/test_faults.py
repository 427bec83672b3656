"""Faults of clients and their replies: the round continues or the run stops, and one line says why."""

from collections.abc import Container
from typing import ClassVar

import pytest
import torch
from fakes import Adder, Recorder, app_of, federate, shared
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from feddat.app import roster
from feddat.app.checkpoint import ServerState
from feddat.app.limits import Limits
from feddat.app.polling import PollingGrid
from feddat.app.roster import FederationError, Roster
from feddat.app.rules import FlowerRule


class Lying(Adder):
    """A client that returns its honest result after ``change``."""

    def __init__(self, name, change) -> None:
        super().__init__(name, 1.0, examples=5)
        self.change = change

    def fit(self, shared, round, extras=None):
        result = super().fit(shared, round)
        return self.change(result, round)


def changed(**values):
    def change(result, round):
        from dataclasses import replace

        return replace(result, **values)

    return change


def grown(result, round):
    from dataclasses import replace

    return replace(result, examples=5 if round == 1 else 50)


def scaled(result, round):
    for value in result.shared.values():
        value.mul_(1e6)
    return result


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (scaled, r"its adapter is 3\.16e\+06 away from the one sent, more than 100 \(server\.max_update\)"),
        (changed(examples=10**9), r"claims 1000000000 examples, more than 10000000 \(server\.max_examples\)"),
        (changed(shared={"up.bias": torch.zeros(4)}), "missing down.weight"),
        (changed(shared={**shared(), "head.weight": torch.zeros(2)}), "unexpected head.weight"),
        (changed(shared={**shared(), "up.bias": torch.zeros(5)}), r"array up.bias is float32\(5,\)"),
        (changed(shared={**shared(), "up.bias": torch.full((4,), float("inf"))}), "NaN or infinite"),
    ],
)
def test_a_reply_that_cannot_be_is_refused_and_counted(change, reason, caplog):
    state = ServerState(shared())
    federate([Adder("ann", 4), Lying("bob", change)], state, rounds=1)
    assert (state.failed, state.refused) == (0, 1)
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 4.0)), "the other's alone"
    import re

    assert re.search(f"client bob refused: .*{reason}", caplog.text)


def test_a_number_of_examples_that_changes_is_a_forgery(caplog):
    state = ServerState(shared())
    federate([Adder("ann", 4), Lying("bob", grown)], state, rounds=2, weighting="examples")
    assert state.refused == 1
    assert "client bob refused: claims 50 examples, but 5 in an earlier round" in caplog.text


def test_limits_can_be_set():
    state = ServerState(shared())
    federate([Adder("ann", 4), Adder("bob", 0.1)], state, limits=Limits(max_update=1.0))
    assert state.refused == 1
    assert torch.allclose(state.shared["up.bias"], torch.full((4,), 0.1))


def test_a_client_with_another_model_is_told_so_and_left_out(caplog):
    ann, bob = Adder("ann", 4), Adder("bob", 1)
    ann.model, bob.model = {"weights": "12ab"}, {"weights": "34cd"}
    state = ServerState(shared())
    federate([ann, bob], state, rounds=2, model={"weights": "12ab"})
    assert bob.turns == []
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 8.0))
    assert state.failed == 2 * 2 + 1
    told = "its model differs from the server's, so it is left out: weights (34cd here, 12ab at the server)"
    assert f"client bob, round 1: {told}" in caplog.text
    assert f"client bob failed: OtherModelError: {told}" in caplog.text


@pytest.mark.parametrize("sharing", ["none", "counts", "scores"])
def test_a_client_lets_out_of_its_metrics_what_it_says(sharing):
    ann, bob = Adder("ann", 4), Adder("bob", 2)
    bob.sharing = sharing
    state = ServerState(shared())
    grid, _, events = federate([ann, bob], state, rounds=1)
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 3.0)), "its adapter counts all the same"
    keys = {key for m in grid.up if m.metadata.src_node_id == 2 for r in m.content.metric_records.values() for key in r}
    counts, scores = {"num-examples", "examples"}, {"train.loss", "score.dat", "score.local"}
    assert keys == {"round"} | (counts if sharing != "none" else set()) | (scores if sharing == "scores" else set())
    assert (state.failed, state.refused) == (0, 0)
    scored = {event["client"]: event["scores"] for event in events if event["event"] == "eval"}
    assert set(scored) == {"ann", "bob"}, "both have answered"
    assert bool(scored["bob"]) == (sharing == "scores")


def test_weights_by_examples_need_their_number(caplog):
    bob = Adder("bob")
    bob.sharing = "none"
    state = ServerState(shared())
    federate([Adder("ann"), bob], state, weighting="examples")
    assert state.refused == 1
    assert "does not share its number of examples, but server.weighting needs it" in caplog.text


def test_weights_by_losses_need_them(caplog):
    """The server refuses a client that does not share its loss, whether it says so or not."""
    honest, liar = Adder("bob"), Lying("cid", changed(metrics={}))
    honest.sharing = "counts"
    state = ServerState(shared())
    rule = FlowerRule("qfedavg", {"q": 0.0, "client_learning_rate": 1.0, "train_loss_key": "train_loss"})
    federate([Adder("ann", 2), honest, liar], state, rule=rule)
    assert state.refused == 2
    assert "client bob refused: does not share its training loss, but server.rule needs it" in caplog.text
    assert "client cid refused: does not share its training loss, but server.rule needs it" in caplog.text
    assert torch.allclose(state.shared["up.bias"], torch.full((4,), 2.0)), "ann's counts"


class Late(Recorder):
    """A grid in which bob's training reply of round 2 arrives only with the replies of round 3."""

    kept = None

    def send_and_receive(self, messages, *, timeout=None):
        late = self.kept
        for reply in super().send_and_receive(messages, timeout=timeout):
            if late is not None and reply.metadata.message_type == "train":
                yield late
                late = self.kept = None
            if reply.metadata.src_node_id == 2 and self.bob.turns[-1:] == [("fit", 2)]:
                self.kept = reply
                continue
            yield reply


def test_a_straggler_is_not_waited_for_and_its_late_reply_not_used(caplog):
    bob, state = Adder("bob", 10.0), ServerState(shared())
    Late.bob = bob
    federate([Adder("ann", 1.0), bob], state, rounds=3, grid_type=Late, deadline=60.0)
    # Rounds 1 and 3: (1 + 10) / 2; round 2: only ann's 1.
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 5.5 + 1.0 + 5.5))
    assert "round 2, train: client bob failed: has not answered within 60 s; a later reply is ignored" in caplog.text
    assert ("evaluate", 2, "validation", False) not in bob.turns, "still at its training, it is not asked for scores"
    assert caplog.text.count("ignoring a late reply of node 2 to an earlier round") == 1
    assert state.failed == 1


class Silent(Recorder):
    """A grid in which node 2 never answers a training message."""

    def send_and_receive(self, messages, *, timeout=None):
        for reply in super().send_and_receive(messages, timeout=timeout):
            if reply.metadata.src_node_id != 2 or reply.metadata.message_type != "train":
                yield reply


def test_a_client_whose_answer_is_lost_without_a_deadline_is_passed_over(caplog):
    state = ServerState(shared())
    federate([Adder("ann", 1.0), Adder("bob", 10.0)], state, rounds=1, grid_type=Silent)
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 1.0))
    assert "round 1, train: client bob failed: has not answered; a later reply is ignored" in caplog.text


class Often(Recorder):
    """A grid on which bob does not answer: kinds of messages in the rounds ``late``, who he is in those of ``mute``."""

    late: ClassVar[dict[str, Container[int]]] = {}
    mute: ClassVar[Container[int]] = ()
    round = 0

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        kind = messages[0].metadata.message_type if messages else ""
        self.round = int(messages[0].metadata.group_id or self.round) if messages else self.round
        late = self.mute if kind == "query" else self.late.get(kind, ())
        for reply in super().send_and_receive(messages, timeout=timeout):
            if reply.metadata.src_node_id != 2 or self.round not in late:
                yield reply


@pytest.fixture
def asked_of_bob(monkeypatch):
    """Return a function that returns the rounds in which bob is asked to train, and those in which for scores."""
    for name in ("AGAIN_SECONDS", "ANSWER_SECONDS"):  # as if rounds took long enough to ask again who a node is
        monkeypatch.setattr(roster, name, 0.0)

    def run(late, rounds, mute=(), **settings):
        class Grid(Often):
            pass

        Grid.late, Grid.mute = late, mute
        clients = [Adder("ann"), Adder("bob"), Adder("cid")]
        _, _, events = federate(clients, ServerState(shared()), rounds, Grid, deadline=60.0, **settings)
        asked = [event for event in events if event["event"] == "asked" and "bob" in event["clients"]]
        return [sorted({event["round"] for event in asked if event["kind"] == kind}) for kind in ("train", "evaluate")]

    return run


def test_a_client_that_is_always_late_costs_the_deadline_less_and_less_often(asked_of_bob, caplog):
    trained, scored = asked_of_bob({"train": range(100)}, 25)
    assert trained == [1, 2, 4, 7, 12, 21]
    assert scored == [25], "the final scores"
    told = (
        "client bob has not answered in time in 2 rounds in a row; it is not asked again for 1, and until it says who"
    )
    assert told in caplog.text


def test_a_client_that_is_always_late_with_its_scores_is_left_alone_as_well(asked_of_bob):
    trained, scored = asked_of_bob({"evaluate": range(100)}, 10)
    assert trained == [1, 2, 4, 7]
    assert scored == [1, 2, 4, 7, 10], "also for its final scores"


@pytest.mark.parametrize(("late", "rounds"), [((1, 2), 3), ((1, 2, 4, 7), 11)])
def test_a_client_that_is_back_has_final_scores(asked_of_bob, late, rounds):
    trained, scored = asked_of_bob({"train": late}, rounds)
    assert trained[-1] < rounds, "it still rests"
    assert scored[-1] == rounds
    assert rounds not in asked_of_bob({"train": late}, rounds, mute=range(rounds))[1], "it does not say who it is"


def test_a_client_that_was_late_comes_back_when_it_answers(asked_of_bob):
    everything = [1, 2, *range(4, 11)]
    assert asked_of_bob({"train": [1, 2]}, 10) == [everything, list(range(4, 11))]
    # It does not say who it is before rounds 3 to 6.
    assert asked_of_bob({"train": [1, 2]}, 10, mute=range(2, 6))[0] == [1, 2, *range(7, 11)]


def test_a_client_that_is_late_now_and_then_is_always_asked(asked_of_bob):
    assert asked_of_bob({"train": range(1, 11, 2)}, 10) == [list(range(1, 11)), list(range(2, 11, 2))]


def test_late_clients_are_asked_again_if_too_few_are_left(asked_of_bob):
    assert asked_of_bob({"evaluate": range(100)}, 5, roster=Roster(least=3)) == [[1, 2, 3, 4, 5]] * 2


def test_after_the_deadline_no_further_turn_begins():
    ann, bob = Adder("ann"), Adder("bob")
    state = ServerState(shared())
    grid, *_ = federate([ann, bob], state)
    assert len(list(grid.send_and_receive(grid.down[-1:], timeout=0.0))) == 0


class Moving(Recorder):
    """A grid whose nodes come and go; ``present`` holds the connected ones."""

    present: frozenset[int] = frozenset()

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node in self.present]


def moving(*participants, present, **roster):
    grid = Moving(app_of(*participants), [participant.name for participant in participants])
    grid.present = set(present)
    return grid, Roster(**roster)


def test_a_client_that_goes_and_comes_back_is_known_by_its_name(caplog):
    caplog.set_level("INFO")
    grid, roster = moving(Adder("ann"), Adder("bob"), present=[1, 2], expected=["ann", "bob"])
    roster.meet(grid)
    assert [member.name for member in roster.members.values()] == ["ann", "bob"]
    grid.present = {1}
    roster.refresh(grid, 2)
    assert list(roster.members) == [1]
    assert roster.size() == 2
    grid.present = {1, 2}
    roster._questions.clear()  # as if some time had passed
    roster.refresh(grid, 3)
    assert list(roster.members) == [1, 2]
    assert "client bob has gone (node 2)" in caplog.text
    assert "client bob is back (node 2)" in caplog.text


def test_too_few_clients_stop_the_run_with_everything_kept():
    grid, roster = moving(Adder("ann"), Adder("bob"), present=[1], expected=["ann", "bob"], least=2, wait=0.2)
    with pytest.raises(
        FederationError, match=r"1 of at least 2 clients connected after 0 s \(ann\); all results .* kept"
    ):
        roster.meet(grid)


def test_a_stranger_is_turned_away(caplog):
    grid, roster = moving(Adder("ann"), Adder("eve"), present=[1, 2], expected=["ann"])
    roster.meet(grid)
    assert list(roster.members) == [1]
    assert "node 2 says it is client eve, which is not in this run; turned away" in caplog.text


def test_a_node_that_does_not_answer_gives_its_name_to_the_one_that_does(caplog):
    class Mute(Moving):
        def send_and_receive(self, messages, *, timeout=None):
            yield from super().send_and_receive([m for m in messages if m.metadata.dst_node_id not in self.mute])

    grid = Mute(app_of(Adder("ann")), ["ann", "ann"])
    grid.present, grid.mute, roster = {1}, set(), Roster()
    roster.meet(grid)
    grid.present, grid.mute = {1, 2}, {1}
    roster.refresh(grid, 2)
    assert list(roster.members) == [2]
    assert "client ann: node 1 does not answer; node 2 takes its place" in caplog.text


def test_replies_come_one_by_one_from_a_grid_that_is_asked_again_and_again(monkeypatch):
    """Flower's own grids return all replies at once, so PollingGrid pulls them repeatedly."""
    monkeypatch.setattr("feddat.app.polling.PAUSE", 0.01)

    class Slow(Recorder):
        def pull_messages(self, ids):
            return super().pull_messages(sorted(ids)[:1])  # one at a time

        def send_and_receive(self, messages, *, timeout=None):
            return list(super().send_and_receive(messages, timeout=timeout))

    state = ServerState(shared())
    grid, strategy, _ = federate([Adder("ann", 1), Adder("bob", 3)], state)
    asked = strategy.configure_train(1, *_arrays(state), grid)
    slow = Slow(app_of(Adder("ann", 1), Adder("bob", 3)), ["ann", "bob"])
    replies = list(PollingGrid(slow).send_and_receive(asked))
    assert sorted(reply.metadata.src_node_id for reply in replies) == [1, 2]


class Gone(Moving):
    """A grid whose node 2 disconnects in training, ``times`` times; the SuperLink then answers in its own name."""

    times, back = 1, False

    def pull_messages(self, ids):
        for reply in super().pull_messages(ids):
            if reply.metadata.src_node_id == 2 and reply.metadata.message_type == "train" and self.times:
                self.times -= 1
                self.present = {1, 2} if self.back else {1}
                reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Error: Node Unavailable"), reply_to=reply)
                reply.metadata.__dict__ |= {"_src_node_id": 1, "_reply_to_message_id": self.to[2]}
            yield reply

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        self.to = {message.metadata.dst_node_id: key for message, key in zip(messages, ids, strict=True)}
        return ids


def gone(back, times=1):
    def make(*of):
        grid = Gone(*of)
        grid.present, grid.back, grid.times = {1, 2}, back, times
        return PollingGrid(grid)

    return make


def test_for_a_node_that_has_gone_the_server_answers_and_the_round_goes_on(monkeypatch, caplog):
    monkeypatch.setattr("feddat.app.polling.PAUSE", 0.01)
    state, bob = ServerState(shared()), Adder("bob", 3)
    federate([Adder("ann", 1), bob], state, grid_type=gone(back=False))
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 1.0))
    assert (state.failed, state.refused) == (1, 0)
    assert "client bob failed: its node has gone: two heartbeats without a sign of life" in caplog.text
    assert bob.turns == [("fit", 1)], "what is not there is not asked for scores"


class Torn(Moving):
    """A grid whose node 2 disconnects while it sends its trained adapter; the SuperLink keeps waiting for the rest."""

    def pull_messages(self, ids):
        for reply in super().pull_messages(ids):
            if reply.metadata.src_node_id == 2 and reply.metadata.message_type == "train":
                self.present = {1}
            else:
                yield reply


def torn(*of):
    grid = Torn(*of)
    grid.present = {1, 2}
    return PollingGrid(grid)


def test_a_reply_that_its_node_cannot_end_any_more_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr("feddat.app.polling.PAUSE", 0.01)
    monkeypatch.setattr("feddat.app.polling.LOOK", 0.05)
    state, bob = ServerState(shared()), Adder("bob", 3)
    federate([Adder("ann", 1), bob], state, grid_type=torn)  # without a deadline
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 1.0))
    assert "client bob failed: its node has gone" in caplog.text


def test_too_few_in_the_middle_of_a_round_are_waited_for_and_it_begins_again(monkeypatch, caplog):
    monkeypatch.setattr("feddat.app.polling.PAUSE", 0.01)
    state, bob = ServerState(shared()), Adder("bob", 3)
    federate([Adder("ann", 1), bob], state, 2, gone(back=True), roster=Roster(least=2, wait=5))
    assert torch.equal(state.shared["up.bias"], torch.full((4,), 2.0 + 2.0)), "ann's first answer is not in it"
    assert [turn[1] for turn in bob.turns if turn[0] == "fit"] == [1, 1, 2]
    assert state.failed == 1
    assert "1 of at least 2 clients could do their part" in caplog.text
    assert "waiting up to 5 s, then the round begins again" in caplog.text


def test_too_few_that_do_not_come_back_stop_the_run(monkeypatch, caplog):
    monkeypatch.setattr("feddat.app.polling.PAUSE", 0.01)
    state = ServerState(shared())
    with pytest.raises(FederationError, match=r"round 1: 1 of at least 2 clients connected after 0 s \(ann\)"):
        federate([Adder("ann"), Adder("bob")], state, 2, gone(back=False), roster=Roster(least=2, wait=0.3))
    assert state.round == 0


def test_clients_that_are_there_and_fail_are_not_waited_for(caplog):
    class Broken(Adder):
        def fit(self, shared, round, extras=None):
            raise RuntimeError("disk on fire")

    with pytest.raises(FederationError, match="1 of at least 2 clients could do their part; first that"):
        federate([Adder("ann"), Broken("bob")], ServerState(shared()), roster=Roster(least=2, wait=60))
    assert caplog.text.count("disk on fire") == 1


def _arrays(state):
    from feddat.app import messages

    return messages.to_arrays(state.shared), messages.instruction_config(1, 1)
