"""Fake clients whose training and scores are simple enough to compute in one's head."""

from __future__ import annotations

import torch
from flwr.app import Message

from feddat.app.client import Site, client_name, make_client_app
from feddat.app.grid import InProcessGrid
from feddat.app.messages import Member
from feddat.app.rules import MeanRule
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.client.trainer import EvalResult, FitResult
from feddat.config import EvalConfig


class Adder:
    """A client that adds its number to every weight, scores the mean weight, and records its turns."""

    def __init__(self, name: str, number: float = 1.0, examples: int = 1) -> None:
        self.name, self.number, self.examples = name, number, examples
        self.turns: list[tuple] = []

    def kept(self):
        return max((turn[1] for turn in self.turns if turn[0] == "fit"), default=0)

    def fit(self, shared, round, extras=None):
        self.turns.append(("fit", round))
        state = None if shared is None else {key: value + self.number for key, value in shared.items()}
        return FitResult(state, self.examples, {"loss": self.number})

    def evaluate(self, received, split):
        self.turns.append(("evaluate", received.round, split, received.final))
        shared = received.shared
        score = 50.0 if shared is None else float(torch.stack([v.mean() for v in shared.values()]).mean())
        return EvalResult({self.name: {"dat": min(abs(score), 100.0), "local": 1.0}}, {self.name: 7})


def app_of(*participants):
    """Return a ClientApp of fakes, with their ``sharing``, ``model`` and ``refuses_old_state`` where set."""
    by_name = {participant.name: participant for participant in participants}

    def find(context, run):
        name = client_name(context)
        sharing = getattr(by_name[name], "sharing", "scores")
        works = by_name[name]
        refuses = getattr(works, "refuses_old_state", False)
        return Site(Member(name, (name,), {}, sharing), works, getattr(works, "model", {}), refuses_old_state=refuses)

    return make_client_app(find)


class Recorder(InProcessGrid):
    """A grid that records every message."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.down: list[Message] = []
        self.up: list[Message] = []

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.down += messages
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.up.append(reply)
            yield reply


def shared(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"down.weight": torch.full((2, 3), value), "up.bias": torch.full((4,), value)}


def shapes(state) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def federate(
    participants,
    state,
    rounds=1,
    grid_type=Recorder,
    routes=("dat", "local"),
    every=1,
    save=None,
    rule=None,
    model=None,
    **settings,
):
    """Run rounds with fake participants; return grid, strategy and events."""
    grid = grid_type(app_of(*participants), [participant.name for participant in participants])
    events: list[dict] = []
    strategy = AdapterStrategy(
        seed=0, rule=rule or MeanRule(), shapes=shapes(state.shared), routes=routes, notify=events.append, **settings
    )
    app = make_server_app(
        strategy,
        state,
        rounds=rounds,
        evaluation=EvalConfig(every=every),
        save=save or (lambda state: None),
        notify=events.append,
        model=model,
    )
    app(grid, None)
    return grid, strategy, events
