"""The Flower ClientApp: finds out which client it is, lets its Participant work, and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from feddat.app import messages, wire
from feddat.app.grid import CLIENT_KEY
from feddat.client.store import PersonalStore
from feddat.client.trainer import EvalResult, FitResult


class Works(Protocol):
    """What the app needs of a :class:`feddat.client.trainer.Participant`."""

    store: PersonalStore

    def fit(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None = None
    ) -> FitResult:
        """Train locally for one round."""
        ...

    def evaluate(
        self,
        shared: dict[str, Tensor] | None,
        round: int,
        split: str,
        final: bool = False,
        extras: Mapping[str, Tensor] | None = None,
    ) -> EvalResult:
        """Score every route on a split."""
        ...


def make_client_app(
    participant: Callable[[str], Works],
    members: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] = (),
) -> ClientApp:
    """Return the ClientApp.

    Args:
        participant: client name -> the participant that works for it; called once per message.
        members: client name -> whose data it answers for; default: its own alone.
        names: client names by ``partition-id``, for runtimes that number their nodes instead of naming them.
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        name = client_name(context, names)
        return messages.name_reply(message, messages.Member(name, tuple((members or {}).get(name, (name,)))))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        ask = messages.read_instruction(message)
        works = participant(client_name(context, names))
        result = works.fit(ask.shared, ask.round, ask.extras)
        packed = _packed(works, ask, result.shared or {})
        return messages.train_reply(message, ask.round, packed, result.examples, result.metrics, result.extras)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        ask = messages.read_instruction(message)
        name = client_name(context, names)
        result = participant(name).evaluate(ask.shared, ask.round, ask.split, ask.final, ask.extras)
        return messages.evaluate_reply(message, ask.round, name, result.scores, result.examples)

    return app


def _packed(works: Works, ask: messages.Instruction, shared: Mapping[str, Tensor]) -> wire.Packed:
    """Return what travels, packed as the server asks; what that loses is kept beside the client's personal state."""
    base = ask.shared if ask.wire.delta else None
    if ask.wire.format != "int8" or not shared:
        return wire.pack(shared, ask.wire, base)[0]
    store = PersonalStore(works.store.root, works.store.client, label="residual")
    round, kept, _ = store.load(ask.round) or (None, {}, {})
    packed, left = wire.pack(shared, ask.wire, base, kept)
    store.save(ask.round, left, {"previous": round})
    return packed


def client_name(context: Context, names: Sequence[str] = ()) -> str:
    """Return which client a node is: its ``client`` setting, or ``names`` at its ``partition-id``.

    Raises:
        ValueError: the node's configuration has neither.
    """
    name = context.node_config.get(CLIENT_KEY)
    if isinstance(name, str) and name:
        return name
    partition = context.node_config.get("partition-id")
    if isinstance(partition, int) and 0 <= partition < len(names):
        return names[partition]
    raise ValueError(f"node {context.node_id}: its configuration names no client (set {CLIENT_KEY}=NAME)")
