"""Federations of fakes with secure aggregation, in which clients drop out in chosen phases."""

from __future__ import annotations

import numpy as np
import torch
from fakes import Recorder, shapes
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from feddat.app import secure_messages
from feddat.app.client import Site, client_name, make_client_app
from feddat.app.messages import Member
from feddat.app.roster import Roster
from feddat.app.rules import MeanRule
from feddat.app.secure_strategy import SecureStrategy
from feddat.app.server import make_server_app
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.client.trainer import EvalResult, FitResult
from feddat.config import EvalConfig
from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.terms import Rules

#: Phase in which a client drops out -> type of its messages, in the order of a round.
PHASES = {"keys": "train", **{step: secure_messages.message_type(step) for step in secure_messages.STEPS}}


class Drawn:
    """A client whose update depends only on its name and the round."""

    def __init__(self, name: str, examples: int = 1) -> None:
        self.name, self.examples = name, examples

    def kept(self) -> int:
        return 0

    def update(self, round: int, like: dict) -> dict:
        generator = np.random.default_rng([round, *self.name.encode()])
        return {
            key: torch.from_numpy(generator.normal(0, 0.006, tuple(value.shape)).astype(np.float32))
            for key, value in sorted(like.items())
        }

    def fit(self, shared, round, extras=None):
        state = {key: shared[key] + value for key, value in self.update(round, shared).items()}
        return FitResult(state, self.examples, {"loss": 1.0})

    def evaluate(self, received, split):
        return EvalResult({self.name: {"dat": 50.0}}, {self.name: 7})


class Dropping(Recorder):
    """A grid in which clients drop out.

    Attributes:
        gone: (round, message type) -> names that answer with an error from there to the end of the round.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gone: dict[tuple[int, str], set[str]] = {}

    def send_and_receive(self, messages, *, timeout=None):
        for reply in super().send_and_receive(messages, timeout=timeout):
            kind, group = reply.metadata.message_type, reply.metadata.group_id
            name = self.names[reply.metadata.src_node_id]
            order = list(PHASES.values())
            if kind in order and any(
                name in names and str(round) == group and order.index(kind) >= order.index(at)
                for (round, at), names in self.gone.items()
            ):
                error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "pulled the plug")
                dead = Message(error, reply_to=self._of(reply))
                yield dead
            else:
                yield reply

    def _of(self, reply):
        return next(m for m in self.down if m.metadata.message_id == reply.metadata.reply_to_message_id)


def members(participants, folder, rules, identities=None):
    return {
        each.name: SecureMember(PersonalStore(folder, each.name), rules, (identities or {}).get(each.name))
        for each in participants
    }


def secure_app(participants, folder, rules, identities=None):
    by_name = {each.name: each for each in participants}
    sums = members(participants, folder, rules, identities)

    def find(context, run):
        name = client_name(context)
        return Site(Member(name, (name,), {}, "scores"), by_name[name], {}, sums[name])

    return make_client_app(find)


def secure_federate(
    participants, state, folder, rounds=1, rules=Rules(), gone=None, grid=None, identities=None, **settings
):
    """Run rounds with secure aggregation; return grid, strategy and events."""
    if grid is None:
        grid = Dropping(secure_app(participants, folder, rules, identities), [each.name for each in participants])
    grid.gone = gone or {}
    events: list[dict] = []
    strategy = SecureStrategy(
        sums=rules,
        seed=0,
        rule=MeanRule(),
        shapes=shapes(state.shared),
        routes=("dat",),
        notify=events.append,
        roster=Roster("run"),
        **settings,
    )
    app = make_server_app(strategy, state, rounds=rounds, evaluation=EvalConfig(), notify=events.append)
    app(grid, None)
    return grid, strategy, events


def plain_mean(sent, updates, rules, offered):
    """Return an adapter plus the fixed-point mean of updates, computed without any secrets.

    Args:
        sent: the adapter, flat.
        updates: flat updates of the clients in the sum.
        rules: rules of the sum.
        offered: number of clients that began the round.
    """
    most = fixed_point.levels(offered, rules.bits)
    total = sum(np.rint(np.clip(u.astype(np.float64) * (most / rules.clip), -most, most)) for u in updates)
    return (sent.astype(np.float64) + total * (rules.clip / most) / len(updates)).astype(np.float32)
