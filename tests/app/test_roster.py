"""A roster never waits long for nodes that do not say who they are, as long as enough clients are there."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from flwr.app import Error, Message

from feddat.app import messages, roster
from feddat.app.grid import identify
from feddat.app.messages import Member
from feddat.app.polling import PollingGrid
from feddat.app.roster import FederationError, Roster

NAMES = {1: "ann", 2: "bob", 3: "eve"}


class Clock:
    """A clock that goes on only while the roster sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Slow:
    """A grid whose nodes answer after some seconds.

    Attributes:
        after: node -> seconds that it takes to answer; one that is left out never answers.
        asked: (node, time) of every question.
        fails: nodes that answer with an error.
        present: ids of the connected nodes.
    """

    def __init__(self, clock, after):
        identify(1)
        self.clock, self.after, self.asked, self.fails = clock, after, [], set()
        self.present, self._replies = [1, 2, 3], {}

    def get_nodes(self):
        return [SimpleNamespace(node_id=node, name=NAMES[node], public_key=b"") for node in self.present]

    def get_node_ids(self):
        return self.present

    def push_messages(self, sent):
        for message in sent:
            node, key = message.metadata.dst_node_id, str(len(self.asked))
            message.metadata.__dict__["_message_id"] = key
            self.asked.append((node, self.clock.now))
            if node in self.after:
                self._replies[key] = (self.clock.now + self.after[node], self._reply(node, message))
        return [message.metadata.message_id for message in sent]

    def _reply(self, node, message):
        if node in self.fails:
            return Message(Error(1, "not approved yet"), reply_to=message)
        return messages.name_reply(message, Member(NAMES[node], (NAMES[node],)))

    def pull_messages(self, ids):
        due = [key for key in ids if key in self._replies and self._replies[key][0] <= self.clock.now]
        return [self._replies.pop(key)[1] for key in due]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(roster, "time", clock)
    return clock


def meet(clock, after, **settings):
    """Return the grid, the roster, and the seconds that it took to meet the clients."""
    slow, found = Slow(clock, after), Roster(**settings)
    began = clock.now
    found.meet(PollingGrid(slow))
    return slow, found, clock.now - began


def refresh(found, slow, clock, round=1):
    """Return the seconds that it took to begin a round, and the names of the clients in it."""
    began = clock.now
    found.refresh(PollingGrid(slow), round)
    return clock.now - began, [member.name for member in found.members.values()]


def test_a_node_that_never_answers_costs_a_few_seconds_once(clock):
    slow, found, seconds = meet(clock, {1: 1, 2: 2}, least=2)
    assert seconds <= roster.LATE_SECONDS + 3
    for round in range(1, 20):
        clock.now += 30
        assert refresh(found, slow, clock, round) == (0, ["ann", "bob"])


def between(slow, node):
    """Return the seconds between the questions to a node."""
    times = [at for asked, at in slow.asked if asked == node]
    return [later - earlier for earlier, later in pairwise(times)]


def test_it_is_asked_again_less_and_less_often(clock):
    slow, found, _ = meet(clock, {1: 1, 2: 2}, least=2)
    clock.now = slow.asked[0][1]
    for round in range(1, 2000):
        clock.now += 10
        refresh(found, slow, clock, round)
    assert between(slow, 3)[:6] == [300, 600, 1200, 2400, 3600, 3600]
    assert not between(slow, 1), "who has answered is not asked again"


@pytest.mark.parametrize("late", [15, 90, 390])
def test_a_late_answer_counts_in_the_next_round(clock, late):
    slow, found, _ = meet(clock, {1: 1, 2: 2, 3: late}, least=2)
    assert list(found.members) == [1, 2]
    clock.now += 400
    assert refresh(found, slow, clock) == (0, ["ann", "bob", "eve"])


def test_while_too_few_are_there_a_node_has_time_to_load_its_model(clock):
    _, found, seconds = meet(clock, {1: 1, 2: 200}, least=2)
    assert list(found.members) == [1, 2] and 200 <= seconds < 215
    with pytest.raises(FederationError, match="1 of at least 2 clients"):
        meet(clock, {1: 1, 2: roster.ANSWER_SECONDS + 50}, least=2)


def test_a_node_that_answers_with_an_error_after_a_minute_costs_a_few_seconds_once(clock):
    slow = Slow(clock, {1: 1, 2: 1, 3: 60})
    slow.fails = {3}
    found = Roster(least=2, wait=600.0)
    found.meet(PollingGrid(slow))
    for round in range(1, 10):
        clock.now += 100
        assert refresh(found, slow, clock, round) == (0, ["ann", "bob"])
    assert len(between(slow, 3)) > 3, "it is asked again"


def test_all_expected_clients_are_waited_for_at_the_start_and_no_longer(clock):
    _, found, seconds = meet(clock, {1: 1, 2: 40}, expected=list(NAMES.values()), wait=60.0)
    assert list(found.members) == [1, 2] and 60 <= seconds < 62


def test_nodes_that_come_and_go_do_not_make_a_round_wait_for_ever(clock):
    """A node is asked when it appears, and has a few seconds from the moment on at which enough are there."""
    _, found, _ = meet(clock, {1: 1, 2: 2}, least=2, wait=600.0)

    class Coming(Slow):
        def get_nodes(self):
            node = 10 + int(self.clock.now) // 4
            return [*super().get_nodes(), SimpleNamespace(node_id=node, name="", public_key=b"")]

    coming = Coming(clock, {})
    assert refresh(found, coming, clock)[0] <= roster.LATE_SECONDS + 1


def test_one_that_went_without_an_answer_is_no_new_node_when_it_comes_back(clock):
    slow, found, _ = meet(clock, {1: 1, 2: 2}, least=2)
    for round in range(1, 10):
        slow.present = [1, 2]
        refresh(found, slow, clock, round)
        slow.present = [1, 2, 3]
        clock.now += 30
        assert refresh(found, slow, clock, round)[0] == 0
    assert min(between(slow, 3)) >= roster.AGAIN_SECONDS


def test_a_node_that_answers_with_an_error_is_asked_again_soon(clock):
    slow = Slow(clock, {1: 1, 2: 1})
    slow.fails = {2}
    found = Roster(least=2, wait=100.0)
    with pytest.raises(FederationError):
        found.meet(PollingGrid(slow))
    assert {round(seconds) for seconds in between(slow, 2)} == {20}
