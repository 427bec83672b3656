"""Measure the cost of secure aggregation in rounds of stand-in clients, which send random updates, not trained ones."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import secure_messages
from feddat.app.checkpoint import ServerState
from feddat.app.client import Site, client_name, make_client_app
from feddat.app.grid import InProcessGrid, failure
from feddat.app.messages import Member
from feddat.app.roster import Roster
from feddat.app.rules import MeanRule
from feddat.app.secure_strategy import SecureStrategy
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.client.received import Received
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.client.trainer import EvalResult, FitResult
from feddat.config import EvalConfig, WireConfig
from feddat.privacy.secure_sum.terms import Rules
from feddat.seeding import torch_generator

#: Wire format of both compared variants, so that the download is the same.
_WIRE = WireConfig(format="int8", delta=True)


@dataclass
class StandIn:
    """A client that sends a random update.

    Attributes:
        name: name of the client.
        store: store of its personal state.
        trained: the newest round that it trained in.
    """

    name: str
    store: PersonalStore
    trained: int = 0

    def fit(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None = None
    ) -> FitResult:
        """Return the adapter with small random numbers added."""
        self.trained = round
        generator = torch_generator(round, self.name, "update")
        new = {key: value + 0.003 * torch.randn(value.shape, generator=generator) for key, value in shared.items()}  # type: ignore[union-attr]
        return FitResult(new, 1, {"loss": 1.0})

    def evaluate(self, received: Received, split: str) -> EvalResult:
        """Return a fixed score."""
        return EvalResult({self.name: {"score": 50.0}}, {self.name: 1})

    def kept(self) -> int:
        """Return the newest round that it trained in, as if it had a personal part."""
        return self.trained


@dataclass
class Costs:
    """The cost of the last round.

    Attributes:
        up, down: bytes over all clients, including the adapter sent for evaluation.
        server: CPU seconds of the server.
        client: CPU seconds of one client, as a mean over all.
        survivors: number of clients in the sum.
    """

    up: int
    down: int
    server: float
    client: float
    survivors: int


class _Grid(InProcessGrid):
    """A grid on which some clients stop answering when asked for masked updates; it counts the clients' CPU time."""

    gone: Collection[str] = frozenset()
    seconds = 0.0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        kinds = (secure_messages.message_type(step) for step in secure_messages.STEPS[1:])
        if asked and asked[0].metadata.message_type in tuple(kinds):
            dead = [message for message in asked if self.names[message.metadata.dst_node_id] in self.gone]
            yield from (failure(message, "gone") for message in self._stamped(dead))
            asked = [message for message in asked if message not in dead]
        replies = super().send_and_receive(asked, timeout=timeout)
        while True:
            began = time.process_time()
            reply = next(replies, None)
            self.seconds += time.process_time() - began
            if reply is None:
                return
            yield reply


@dataclass
class _Lap:
    """Clocks and counters at the end of each round."""

    state: ServerState
    grid: _Grid
    marks: list[tuple[float, float, int, int]] = field(default_factory=list)

    def __call__(self, state: ServerState) -> None:
        count = {way: sum(kind[way] for kind in state.bytes.values()) for way in ("up", "down")}
        self.marks.append((time.process_time(), self.grid.seconds, count["up"], count["down"]))


def measure_rounds(folder: Path, shapes: Shapes, clients: int, gone: int, sums: Rules | None) -> Costs:
    """Run two rounds and return the cost of the second; the first also exchanges the run's keys.

    Args:
        folder: new folder for the clients' states.
        shapes: shapes of the adapter.
        clients: number of clients.
        gone: number of clients that drop out after the others have masked their updates; only with ``sums``.
        sums: rules of secure sums; ``None``: updates are sent as int8.
    """
    names = [f"client-{index:04}" for index in range(clients)]
    everybody = {name: StandIn(name, PersonalStore(folder, name)) for name in names}

    def site(context: Context, run: str) -> Site:
        works = everybody[client_name(context)]
        member = None if sums is None else SecureMember(works.store, sums)
        return Site(Member(works.name, (works.name,), {}, "scores"), works, {}, member)

    grid = _Grid(make_client_app(site), names)
    grid.gone = set(names[:: max(1, clients // gone)][:gone]) if gone and sums else set()
    strategy_of = AdapterStrategy if sums is None else partial(SecureStrategy, sums=sums)
    strategy = strategy_of(seed=0, rule=MeanRule(), shapes=shapes, routes=("score",), wire=_WIRE, roster=Roster("run"))
    state = ServerState({key: torch.zeros(shape) for key, shape in shapes.items()})
    lap = _Lap(state, grid)
    app = make_server_app(strategy, state, rounds=2, evaluation=EvalConfig(curve_split="test"), save=lap)
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    (began, clients_began, up, down), (ended, clients_ended, up_ended, down_ended) = lap.marks
    own = clients_ended - clients_began
    return Costs(up_ended - up, down_ended - down, ended - began - own, own / clients, clients - len(grid.gone))
