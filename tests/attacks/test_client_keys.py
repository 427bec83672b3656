"""Keys that are revoked, replaced or admitted in the middle of a run, on the real server app."""

from attackers import EVE, SHAPES, Honest, Mixed, state
from flwr.proto.node_pb2 import NodeInfo

from feddat.app.grid import InProcessGrid
from feddat.app.roster import Roster
from feddat.app.rules import MeanRule
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.config import EvalConfig

KEYS = {name: f"{name}'s key".encode() for name in ("ann", EVE, "zoe")}


class Keyed(InProcessGrid):
    """A grid whose SuperLink knows every node's key, but not which keys have been revoked."""

    def __init__(self, *args):
        super().__init__(*args)
        self.keys = dict(KEYS)

    def get_nodes(self):
        names = {node: self.names[node] for node in self.get_node_ids()}
        return [NodeInfo(node_id=node, name=name, public_key=self.keys[name]) for node, name in names.items()]


def run(at_round, change, rounds=4, without=None):
    """Run rounds; after one of them ``change`` alters the admitted keys. Return who trained in each, and refusals."""
    admitted, events, trained = {name: key for name, key in KEYS.items() if name != without}, [], {}
    clients = [Honest("ann", 1.0), Honest(EVE, 1.0), Honest("zoe", 1.0)]
    grid = Keyed(Mixed(clients, {}), [client.name for client in clients])

    def notify(event):
        events.append(event)
        if event["event"] == "fit":
            trained.setdefault(event["round"], []).append(event["client"])
        if event["event"] == "round" and event["round"] == at_round:
            change(admitted, grid)

    roster = Roster(admitted=lambda: dict(admitted))
    strategy = AdapterStrategy(
        seed=0, rule=MeanRule(), shapes=SHAPES, routes=["dat"], notify=notify, roster=roster, logs=("loss",)
    )
    evaluation = EvalConfig(every=1, curve_split="test")
    make_server_app(strategy, state(), rounds=rounds, evaluation=evaluation, notify=notify)(grid, None)
    return trained, [event for event in events if event["event"] == "refused"]


def test_a_revoked_client_is_turned_away_in_the_next_round():
    trained, refused = run(2, lambda admitted, grid: admitted.pop(EVE))
    assert trained == {1: ["ann", EVE, "zoe"], 2: ["ann", EVE, "zoe"], 3: ["ann", "zoe"], 4: ["ann", "zoe"]}
    reason = "client eve: the key of node 2 is not let in"
    assert [(event["client"], event["reason"]) for event in refused] == [(EVE, reason)], "once, not in every round"


def test_a_name_is_not_taken_by_another_key():
    grid = Keyed(Mixed([Honest("ann", 1.0), Honest("zoe", 1.0)], {}), ["ann", "zoe"])
    grid.keys["ann"] = b"another key"
    events = []
    roster = Roster(admitted=lambda: KEYS, notify=events.append)
    roster.meet(grid)
    assert [member.name for member in roster.members.values()] == ["zoe"]
    assert [event["reason"] for event in events] == ["client ann: the key of node 1 is not let in"]


def test_a_client_whose_key_was_replaced_is_not_counted_as_an_attacker():
    trained, refused = run(2, lambda admitted, grid: admitted.update({"ann": b"the new key"}))
    assert trained[3] == [EVE, "zoe"] and not refused


def test_a_key_admitted_without_a_name_is_refused():
    trained, refused = run(2, lambda admitted, grid: grid.names.update({2: ""}) or grid.keys.update({"": KEYS[EVE]}))
    assert trained[3] == ["ann", "zoe"] and len(refused) == 1


def test_who_is_let_in_later_takes_part_from_then_on():
    """A run that names no clients takes all that are admitted."""
    trained, _ = run(2, lambda admitted, grid: admitted.update(KEYS), without=EVE)
    assert trained == {1: ["ann", "zoe"], 2: ["ann", "zoe"], 3: ["ann", EVE, "zoe"], 4: ["ann", EVE, "zoe"]}


def test_a_run_does_not_wait_for_a_client_that_was_revoked():
    clients = [Honest("ann", 1.0), Honest("zoe", 1.0)]
    grid = Keyed(Mixed(clients, {}), ["ann", "zoe"])
    roster = Roster(expected=["ann", EVE, "zoe"], least=1, wait=5.0)
    roster.admitted = lambda: {name: KEYS[name] for name in ("ann", "zoe")}
    roster.meet(grid)
    assert [member.name for member in roster.members.values()] == ["ann", "zoe"]
