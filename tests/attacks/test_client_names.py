"""A client that claims to be another, answers for another, or sends an invalid name."""

import pytest
from attackers import EVE, Honest, Mixed, is_mean_of_the_honest, refusals, run
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from feddat.app.grid import InProcessGrid
from feddat.app.roster import FederationError, Roster


def saying(**changes):
    """Return an attack that changes a node's answer to the question who it is."""
    return {"query": lambda content: RecordDict({"config": ConfigRecord({**content["config"], **changes})})}


def everywhere(**changes):
    """Return the same attack, with scores for all members that it claims to answer for."""
    members = changes["members"]

    def scores(content):
        values = {"round": content["metrics"]["round"], "num-examples": 7 * len(members)}
        for member in members:
            values |= {f"{member}/examples": 7, f"{member}/score.dat": 99.0}
        return RecordDict({"metrics": MetricRecord(values)})

    return saying(**changes) | {"evaluate": scores}


@pytest.mark.parametrize("name", ["ann", "zoe", "carl"])
def test_a_node_is_who_its_key_says(name, caplog):
    found = run(saying(client=name, members=[name]))
    [(client, kind, reason)] = refusals(found)
    assert (client, kind) == (EVE, "query"), "it is told by its key's name, not by the one that it gives itself"
    assert reason == f"node 2 has the key of client eve, but says it is client {name}"
    assert is_mean_of_the_honest(found)
    assert sorted(found.strategy.scores) == ["ann", "zoe"]
    assert found.state.refused == 1
    assert "turned away" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_the_real_ann_is_let_in_whoever_came_first(first):
    class Late(InProcessGrid):
        """A grid on which the attacker's node connects before or after the others."""

        asked = 0

        def get_node_ids(self):
            self.asked += 1
            nodes = super().get_node_ids()
            early = [2] if first else [1, 3]
            return early if self.asked == 1 else nodes

    clients = [Honest("ann", 1.0), Honest(EVE, 1.5), Honest("zoe", 2.0)]
    grid = Late(Mixed(clients, saying(client="ann", members=["ann"])), [client.name for client in clients])
    roster = Roster(expected=["ann", "zoe"], least=2, wait=20)
    roster.meet(grid)
    assert {node: member.name for node, member in roster.members.items()} == {1: "ann", 3: "zoe"}


@pytest.mark.parametrize("members", [["ann"], [EVE, "ann"], [EVE, "carl"], ["carl"], ["ann", "zoe", EVE]])
def test_a_client_speaks_for_itself_alone(members):
    found = run(everywhere(client=EVE, members=members))
    [(client, kind, reason)] = refusals(found)
    assert (client, kind) == (EVE, "query")
    assert reason.endswith("but may answer only for itself")
    assert found.strategy.scores == {"ann": {"dat": 50.0}, "zoe": {"dat": 50.0}}


def test_where_one_place_has_all_data_no_two_answer_for_the_same():
    honest = [Honest("ann", 1.0), Honest("zoe", 2.0)]
    found = run(everywhere(client=EVE, members=[EVE, "ann"]), honest=honest, roster=Roster(central=True))
    assert [reason for *_, reason in refusals(found)] == ["client eve answers for ann, and so does client ann"]
    assert found.strategy.scores == {"ann": {"dat": 50.0}, "zoe": {"dat": 50.0}}


@pytest.mark.parametrize("key", ["ann/score.dat", "carl/score.dat", "ann/examples"])
def test_a_score_under_another_name_is_refused(key):
    def with_more(content):
        return RecordDict({"metrics": MetricRecord({**content["metrics"], key: 99})})

    found = run({"evaluate": with_more})
    assert [reason for *_, reason in refusals(found)] == [f"keys of the scores do not fit: unexpected {key}"]
    assert found.strategy.scores == {"ann": {"dat": 50.0}, "zoe": {"dat": 50.0}}


NAMES = {
    "empty": "",
    "escapes": "ann\x1b[2J\x1b]0;owned\x07",
    "new line": "ann\nround 9 of 9 is done",
    "carriage return": "ann\rbob",
    "turned around": "\u202eevil",
    "without width": "an\u200bn",
    "space at the end": "ann ",
    "slash": "ann/score",
    "long": "a" * 201,
    "a megabyte": "a" * 10**6,
    "surrogate": "ann\ud800",
    "a number": 5,
    "bytes": b"ann",
    "a list": ["ann"],
}


def possible(where, value):
    """Return whether a ConfigRecord of Flower can hold this value."""
    try:
        ConfigRecord({where: value})
    except TypeError:
        return False
    return True


SAID = {
    **{f"client: {name}": ("client", value) for name, value in NAMES.items()},
    **{f"members: {name}": ("members", [value]) for name, value in NAMES.items()},
}
SAID = {name: said for name, said in SAID.items() if possible(*said)}


@pytest.mark.parametrize("said", SAID)
def test_what_is_no_name_is_refused_in_one_harmless_line(said, caplog):
    where, value = SAID[said]
    found = run(saying(**{where: value}))
    [(client, kind, reason)] = refusals(found)
    assert (client, kind) == (EVE, "query")
    assert "did not send a valid client name" in reason
    lines = [line for line in caplog.messages if "turned away" in line]
    assert [len(line) < 400 and line.isprintable() for line in lines] == [True]
    assert is_mean_of_the_honest(found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"members": [EVE, EVE]}, "names a member twice"),
        ({"members": []}, "did not send a valid"),
        ({"members": [EVE] + [f"m{i}" for i in range(20_000)]}, "did not send a valid"),
        ({"sharing": "all\x1b[31m"}, r"shares 'all\x1b[31m', expected one of"),
        ({"sharing": 3}, "shares 3, expected one of"),
        ({"parameters.total": 10**18}, "counts its parameters as total"),
        ({"parameters.total": -1}, "counts its parameters as total: -1"),
        ({"parameters.total": 1.5}, "counts its parameters as total: 1.5"),
        ({"parameters.\x1b[31m": 1}, r"counts its parameters as \x1b[31m: 1"),
        ({"num-examples": -1}, "claims -1 examples"),
        ({"num-examples": "many"}, "claims 'many' examples"),
    ],
)
def test_absurd_introductions_are_refused(changes, reason, caplog):
    found = run(saying(**changes))
    [(client, kind, told)] = refusals(found)
    assert (client, kind) == (EVE, "query")
    assert reason in told
    assert is_mean_of_the_honest(found)


class OfAnyKey(InProcessGrid):
    """A grid whose SuperLink knows no names, because keys were admitted by other means or all keys are."""

    def get_nodes(self):
        return [NodeInfo(node_id=node, public_key=b"key") for node in self.get_node_ids()]


def test_a_consortium_lets_in_no_key_without_a_name():
    grid = OfAnyKey(Mixed([Honest("ann", 1.0)], {}), ["ann"])
    with pytest.raises(FederationError, match="node 1 says it is client ann, but its key was admitted without a name"):
        Roster(bound=True).meet(grid)
    roster = Roster()
    roster.meet(grid)
    assert [member.name for member in roster.members.values()] == ["ann"]


def test_a_node_that_breaks_the_question_costs_itself_alone():
    found = run({"query": lambda content: RecordDict({"config": MetricRecord({"client": 1})})})
    assert [(client, kind) for client, kind, _ in refusals(found)] == [(EVE, "query")]
    assert is_mean_of_the_honest(found)


def test_an_answer_to_another_question_names_nobody():
    """A reply from a node that was not asked is ignored."""
    clients = [Honest("ann", 1.0), Honest("zoe", 2.0)]

    class Chatty(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                yield reply
                forged = super().send_and_receive(list(messages)[:1])
                for again in forged:
                    again.metadata.__dict__["_src_node_id"] = 77
                    yield again

    roster = Roster()
    roster.meet(Chatty(Mixed(clients, {}), ["ann", "zoe"]))
    assert list(roster.members) == [1, 2]
