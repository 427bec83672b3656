"""Honest clients, an attacker, and the real server app, over the real grid of a single process."""

import logging
from types import SimpleNamespace

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from feddat.app.client import Site, client_name, make_client_app
from feddat.app.grid import CLIENT_KEY, InProcessGrid
from feddat.app.messages import Member
from feddat.app.rules import MeanRule
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.client.trainer import EvalResult, FitResult
from feddat.config import EvalConfig

#: The attacker's name: in the middle of the alphabet, so that honest clients come before and after it.
EVE = "eve"
SHAPES = {"down.weight": (2, 3), "up.bias": (4,)}


class Honest:
    """A client that adds its number to every weight and trains on ``examples`` examples."""

    def __init__(self, name, number, examples=10, members=None):
        self.name, self.number, self.examples, self.members = name, number, examples, members or (name,)
        self._trained = 0

    def kept(self):
        return self._trained

    def fit(self, shared, round, extras=None):
        self._trained = round
        moved = {key: value + self.number for key, value in shared.items()}
        sent = {key: torch.full_like(value, self.number) for key, value in (extras or {}).items()}
        return FitResult(moved, self.examples, {"loss": self.number, "steps": 1.0}, sent)

    def evaluate(self, received, split):
        return EvalResult({self.name: {"dat": 50.0}}, {self.name: 7})


class Mixed:
    """The real ClientApp, except that the attacker changes its own replies."""

    def __init__(self, clients, attacks):
        by_name = {client.name: client for client in clients}

        def find(context, run):
            client = by_name[client_name(context)]
            return Site(Member(client.name, client.members, {}, "scores", client.examples), client, {})

        self._app, self._attacks = make_client_app(find), attacks

    def __call__(self, message, context):
        reply = self._app(message, context)
        attack = self._attacks.get(message.metadata.message_type)
        if context.node_config[CLIENT_KEY] != EVE or attack is None:
            return reply
        content = attack(reply.content)
        return content if isinstance(content, Message) else Message(content, reply_to=message)


def state():
    from feddat.app.checkpoint import ServerState

    return ServerState({key: torch.zeros(shape) for key, shape in SHAPES.items()})


def run(attacks, rounds=1, honest=None, eve=None, rule=None, start=None, roster=None, **settings):
    """Run rounds of two honest clients and the attacker; ``attacks`` maps kinds of message to changes of content."""
    clients = honest or [Honest("ann", 1.0), Honest("zoe", 2.0)]
    if eve is not False:
        clients = [*clients, eve or Honest(EVE, 1.5)]
    grid = InProcessGrid(Mixed(clients, attacks), [client.name for client in clients])
    events, server = [], start or state()
    if roster is not None:
        settings["roster"] = roster
    strategy = AdapterStrategy(
        seed=0, rule=rule or MeanRule(), shapes=SHAPES, routes=["dat"], notify=events.append, **settings
    )
    app = make_server_app(
        strategy, server, rounds=rounds, evaluation=EvalConfig(every=1, curve_split="test"), notify=events.append
    )
    app(grid, None)
    return SimpleNamespace(state=server, strategy=strategy, events=events, grid=grid)


def refusals(found):
    """Return the client, the kind of message and the reason of each refusal and failure."""
    return [(e["client"], e["kind"], e["reason"]) for e in found.events if e["event"] in ("refused", "failed")]


def is_mean_of_the_honest(found, value=1.5):
    """Return whether every weight has this value, which by default is the mean of the two honest clients."""
    return all(torch.equal(v, torch.full_like(v, value)) for v in found.state.shared.values())


def logged(caplog):
    """Return the warnings and errors in the log, as a terminal shows them."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def with_array(key, array):
    """Return an attack on training that puts another array under a key."""

    def attack(content):
        arrays = dict(content.array_records["shared"])
        arrays[key] = array
        return RecordDict({"shared": ArrayRecord(arrays), "metrics": content["metrics"]})

    return attack


def with_values(change):
    """Return an attack on training that changes the numbers in every array."""

    def attack(content):
        arrays = {key: Array(change(value.numpy()).astype(np.float32)) for key, value in content["shared"].items()}
        return RecordDict({"shared": ArrayRecord(arrays), "metrics": content["metrics"]})

    return attack


def with_metrics(change):
    """Return an attack on any reply that applies ``change`` to the dictionary of metrics."""

    def attack(content):
        records = dict(content.items())
        records["metrics"] = MetricRecord(change(dict(content["metrics"])))
        return RecordDict(records)

    return attack
