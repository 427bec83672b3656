"""The Flower ClientApp: finds out which client it is, lets its Participant work, and answers.

A client whose foundation model is not the server's takes no part: an adapter fits only the weights it was trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from feddat.app import messages, wire
from feddat.app.grid import CLIENT_KEY
from feddat.client.store import PersonalStore
from feddat.client.trainer import EvalResult, FitResult
from feddat.phases import phase

log = logging.getLogger(__name__)


class OtherModelError(ValueError):
    """The client's model is not the server's; the message names the parts that differ."""


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


@dataclass(frozen=True)
class Site:
    """A client as its own node knows it.

    Attributes:
        who: what the server is told about it.
        works: does the work.
        model: part of its model -> hash; a part that either side does not name is not compared.
    """

    who: messages.Member
    works: Works
    model: Mapping[str, str] = field(default_factory=dict)


def make_client_app(site: Callable[[Context, str], Site]) -> ClientApp:
    """Return the ClientApp.

    Args:
        site: the node's context and the run's id -> the client that this node is; called once per message.
    """
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        run = messages.read_run(message)
        who = site(context, run).who
        log.info("client %s: told the server of run %s who it is, and that it shares %s", who.name, run, who.sharing)
        return messages.name_reply(message, who)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        ask = messages.read_instruction(message)
        here = site(context, ask.run)
        check_model(here, ask)
        _tell("asked", here, ask, "asked to train", kind="train")
        result = here.works.fit(ask.shared, ask.round, ask.extras)
        packed = _packed(here.works, ask, result.shared or {})
        _tell("fit", here, ask, "has trained", examples=result.examples, metrics=dict(result.metrics))
        return messages.train_reply(
            message, ask.round, packed, result.examples, result.metrics, result.extras, here.who.sharing
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        ask = messages.read_instruction(message)
        here = site(context, ask.run)
        check_model(here, ask)
        _tell("asked", here, ask, f"asked for its scores on {ask.split}", kind="evaluate", split=ask.split)
        result = here.works.evaluate(ask.shared, ask.round, ask.split, ask.final, ask.extras)
        for member, scores in result.scores.items():
            _tell("eval", here, ask, f"{member} is scored on {ask.split}", split=ask.split, scores=dict(scores))
        return messages.evaluate_reply(
            message, ask.round, here.who.name, result.scores, result.examples, here.who.sharing
        )

    return app


def _tell(event: str, here: Site, ask: messages.Instruction, message: str, **fields: Any) -> None:
    """Say what this client does, for a log of its own process (:mod:`feddat.log`)."""
    what = {"event": event, "round": ask.round, "client": here.who.name, **fields}
    log.info("client %s, round %d: %s", here.who.name, ask.round, message, extra={"event": what})


@phase("messages")
def _packed(works: Works, ask: messages.Instruction, shared: Mapping[str, Tensor]) -> wire.Packed:
    """Return what travels, packed as the server asks; what that loses is kept beside the client's personal state."""
    base = ask.shared if ask.wire.delta else None
    if ask.wire.format != "int8" or not shared:
        return wire.pack(shared, ask.wire, base)[0]
    store = PersonalStore(works.store.root, works.store.client, label="residual")
    with store.held():
        round, kept, _ = store.load(ask.round) or (None, {}, {})
        packed, left = wire.pack(shared, ask.wire, base, kept)
        store.save(ask.round, left, {"previous": round})
    return packed


def check_model(site: Site, ask: messages.Instruction) -> None:
    """Compare the client's model with the server's.

    Raises:
        OtherModelError: they are not the same.
    """
    parts = [
        f"{part} ({site.model[part]} here, {value} at the server)"
        for part, value in ask.model.items()
        if site.model.get(part, value) != value
    ]
    if parts:
        reason = f"another model than the server's, so left out: {', '.join(parts)}"
        log.warning("client %s, round %d: %s", site.who.name, ask.round, reason)
        raise OtherModelError(reason)


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
