"""The Flower ClientApp: identify the client, let its Participant work, and reply.

A client whose foundation model differs from the server's takes no part: an adapter fits only the weights it was trained
on. A client with its own policy checks every message against it before doing anything. The server of such a client
learns only a code when something fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch import Tensor

from feddat.app import messages, secure_messages, wire
from feddat.app.codes import CERTIFICATE, FAILED, OLD_STATE, OTHER_MODEL, OTHER_VERSION, REFUSED
from feddat.app.grid import CLIENT_KEY
from feddat.app.policy import PolicyError
from feddat.app.versions import VersionError
from feddat.client.received import Received
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.client.trainer import EvalResult, FitResult
from feddat.one_line import one_line
from feddat.phases import phase
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.identity import IdentityError

log = logging.getLogger(__name__)

#: The longest text of a server in a log line, in characters.
_LONGEST = 500


class OtherModelError(ValueError):
    """The client's model differs from the server's; the message names the parts."""


class OldStateError(ValueError):
    """The client's state is older than the last training that it sent to the server; the message names both rounds."""


class Works(Protocol):
    """What the app needs from a :class:`feddat.client.trainer.Participant`."""

    store: PersonalStore

    def kept(self) -> int:
        """Return the newest round whose state the client keeps; 0 if none."""
        ...

    def fit(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None = None
    ) -> FitResult:
        """Train locally for one round."""
        ...

    def evaluate(self, received: Received, split: str) -> EvalResult:
        """Score every route on a split."""
        ...


@dataclass(frozen=True)
class Site:
    """A client as its own node knows it.

    Attributes:
        who: what the client tells the server about itself.
        works: trains and evaluates.
        model: part of its model -> hash; only parts that both sides name are compared.
        sums: its part in secure aggregation; ``None``: its updates travel unmasked.
        refuses_old_state: refuse to work from a state older than its last training, for example from an old backup.
        hides_losses: send no losses of training, since one example can change them.
        hides_costs: send neither the time nor the passes of training, which no server needs.
    """

    who: messages.Member
    works: Works
    model: Mapping[str, str] = field(default_factory=dict)
    sums: SecureMember | None = None
    refuses_old_state: bool = False
    hides_losses: bool = False
    hides_costs: bool = False

    def told(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of training that this client may send."""
        return {
            name: value
            for name, value in metrics.items()
            if (name in messages.TOLD or not self.hides_losses) and (name not in messages.COSTS or not self.hides_costs)
        }


class Gate(Protocol):
    """A client's own policy, as the app uses it."""

    def admit(self, message: Message) -> None:
        """Refuse a message before anything is loaded for it."""
        ...

    def allow(self, message: Message, ask: messages.Instruction, works: Works) -> None:
        """Refuse an instruction because of what it would lead to, before carrying it out."""
        ...


def make_client_app(
    site: Callable[[Context, str], Site], gate: Callable[[Context], Gate | None] = lambda context: None
) -> ClientApp:
    """Return the ClientApp.

    Args:
        site: the node's context and the run's id -> this node's client; called once per message.
        gate: the node's context -> its client's policy. ``None``: there is no policy, and the server gets full errors.
    """
    app = ClientApp()

    def instructed(message: Message, context: Context, own: Gate | None) -> tuple[messages.Instruction, Site]:
        """Return the instruction and the client, after checking that the client may carry it out."""
        ask = messages.read_instruction(message)
        here = site(context, ask.run)
        try:
            check_model(here, ask)
        except OtherModelError as error:
            if own is None:  # otherwise `_note` logs it, together with the code for the server
                log.warning("client %s, round %d: %s", here.who.name, ask.round, error)
            raise
        check_state(here, ask)
        if own is not None:
            own.allow(message, ask, here.works)
        return ask, here

    @app.query()
    def query(message: Message, context: Context) -> Message:
        def answer(own: Gate | None) -> Message:
            run = messages.read_run(message)
            here = site(context, run)
            who = replace(here.who, kept=here.works.kept())
            log.info(
                "client %s: told the server of run %s who it is, and that it shares %s", who.name, run, who.sharing
            )
            return messages.name_reply(message, who)

        return _guarded(gate(context), message, context, answer)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def answer(own: Gate | None) -> Message:
            ask, here = instructed(message, context, own)
            _tell("asked", here, ask, "asked to train", kind="train")
            told = b"" if here.sums is None else messages.hash_of(ask)  # before training: it may change the extras
            result = here.works.fit(ask.shared, ask.round, ask.extras)
            offer = _offered(here, ask, result, told)
            packed = _packed(here.works, ask, result.shared or {}) if offer is None else {}
            _tell("fit", here, ask, "has trained", examples=result.examples, metrics=dict(result.metrics))
            metrics = here.told(result.metrics)
            reply = messages.train_reply(
                message, ask.round, packed, result.examples, metrics, result.extras, here.who.sharing
            )
            return reply if offer is None else secure_messages.with_offer(reply, offer)

        return _guarded(gate(context), message, context, answer)

    for step in secure_messages.STEPS:
        app.query(step)(_step_of_sum(step, site, gate))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        def answer(own: Gate | None) -> Message:
            ask, here = instructed(message, context, own)
            _tell("asked", here, ask, f"asked for its scores on {ask.split}", kind="evaluate", split=ask.split)
            received = Received(ask.shared, ask.round, ask.final, ask.extras)
            result = here.works.evaluate(received, ask.split)
            for member, scores in result.scores.items():
                _tell("eval", here, ask, f"{member} is scored on {ask.split}", split=ask.split, scores=dict(scores))
            return messages.evaluate_reply(
                message, ask.round, here.who.name, result.scores, result.examples, here.who.sharing
            )

        return _guarded(gate(context), message, context, answer)

    return app


def _guarded(own: Gate | None, message: Message, context: Context, answer: Callable[[Gate | None], Message]) -> Message:
    """Return the answer to a message. With a policy, return only a code when something goes wrong."""
    if own is None:
        messages.check_versions(message)
        return answer(None)
    try:
        messages.check_versions(message)
        own.admit(message)
        return answer(own)
    except Exception as error:  # Any error can name records, files and folders, so none travels.
        codes: dict[type[Exception], str] = {
            PolicyError: REFUSED,
            OtherModelError: OTHER_MODEL,
            VersionError: OTHER_VERSION,
            OldStateError: OLD_STATE,
            IdentityError: CERTIFICATE,
        }
        code = codes.get(type(error), FAILED)
        _note(code, error, message, context)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code), reply_to=message)


def _note(code: str, error: Exception, message: Message, context: Context) -> None:
    """Log the reason behind a code."""
    kind, group = one_line(message.metadata.message_type, _LONGEST), message.metadata.group_id
    text = f"{type(error).__name__}: {error}" if code == FAILED else str(error)
    reason = one_line(text, _LONGEST)
    what: dict[str, Any] = {"event": "failed" if code == FAILED else "refused", "kind": kind, "told": code}
    what |= {"reason": reason, "client": context.node_config.get(CLIENT_KEY)}
    what["round"] = int(group) if group.isascii() and group.isdecimal() and len(group) < 10 else None
    log.warning("%s: %s: %s", kind, code, reason, extra={"event": what})
    log.debug("traceback of the failure", exc_info=error)


def _tell(event: str, here: Site, ask: messages.Instruction, message: str, **fields: Any) -> None:
    """Log what this client does, for the log of its own process (:mod:`feddat.log`)."""
    what = {"event": event, "round": ask.round, "client": here.who.name, **fields}
    log.info("client %s, round %d: %s", here.who.name, ask.round, message, extra={"event": what})


def _step_of_sum(
    step: str, site: Callable[[Context, str], Site], gate: Callable[[Context], Gate | None]
) -> Callable[[Message, Context], Message]:
    """Return the function that answers the messages of one step of a secure sum."""

    def take(message: Message, context: Context) -> Message:
        def answer(own: Gate | None) -> Message:
            here = site(context, messages.read_run(message))
            if here.sums is None:
                raise SumError("this run has no secure aggregation")
            return secure_messages.answer_step(here.sums, message, step)

        return _guarded(gate(context), message, context, answer)

    return take


@phase("messages")
def _offered(here: Site, ask: messages.Instruction, result: FitResult, told: bytes) -> bytes | None:
    """Return a client's offer to have its update summed, and keep the update here; ``None``: it travels unmasked.

    ``told`` is the hash of what the client received (:func:`~feddat.app.messages.hash_of`).
    """
    if here.sums is None:
        return None
    if result.extras or not result.shared or ask.shared is None:
        raise SumError("this method sends more than its adapter, which secure aggregation cannot sum")
    return here.sums.offer(ask.run, ask.round, result.shared, ask.shared, told)


@phase("messages")
def _packed(works: Works, ask: messages.Instruction, shared: Mapping[str, Tensor]) -> wire.Packed:
    """Return the shared part packed as the server asks; keep the residual beside the client's personal state."""
    base = ask.shared if ask.wire.delta else None
    if ask.wire.format != "int8" or not shared:
        return wire.pack(shared, ask.wire, base)[0]
    store = works.store.beside("residual")
    with store.held():
        round, kept, _ = store.load(ask.round) or (None, {}, {})
        packed, left = wire.pack(shared, ask.wire, base, kept)
        store.save(ask.round, left, {"previous": round})
    return packed


def check_model(site: Site, ask: messages.Instruction) -> None:
    """Compare the client's model with the server's.

    Raises:
        OtherModelError: they differ.
    """
    parts = [
        f"{part} ({site.model[part]} here, {value} at the server)"
        for part, value in ask.model.items()
        if site.model.get(part, value) != value
    ]
    if parts:
        raise OtherModelError(f"its model differs from the server's, so it is left out: {', '.join(parts)}")


def check_state(site: Site, ask: messages.Instruction) -> None:
    """Warn if the client's state is older than the last training that it sent to the server, as from an old backup.

    Raises:
        OldStateError: the state is older, and the client refuses to work from it.
    """
    if ask.ledger <= (kept := site.works.kept()):
        return
    state = f"its newest state is from round {kept}" if kept else "it has no state"
    reason = f"{state}, but the server has its training of round {ask.ledger}: restored from an older backup?"
    if site.refuses_old_state:
        raise OldStateError(f"{reason} It does nothing until the right state is restored (old_state: refuse)")
    event = {"event": "rollback", "client": site.who.name, "kept": kept, "ledger": ask.ledger, "round": ask.round}
    log.warning("client %s: %s It continues from the state it has", site.who.name, reason, extra={"event": event})


def client_name(context: Context, names: Sequence[str] = ()) -> str:
    """Return the name of a node's client: its ``client`` setting, or the entry of ``names`` at its ``partition-id``.

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
