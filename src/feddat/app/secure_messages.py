"""Messages of a secure sum: what server and clients exchange beside an update, and in place of it.

| message | server to client | client to server |
| --- | --- | --- |
| train | as without secure aggregation | examples, losses; two keys, a commitment, its certificate |
| query.share | names, keys; certificates that are new | two sealed shares for each other client |
| query.mask | who has shared; what they sealed for this client | its masked update, and whose shares it opened |
| query.agree | whose update is in the sum | a tag on that set for each other client |
| query.reveal | the others' tags | one share for each client |

Bytes travel in a record ``sum``. The masked update is an array, because it can be large. This module checks only the
form of messages; :mod:`feddat.privacy.secure_sum` has the checks of the protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from feddat.app import messages, versions
from feddat.app.arrays import ArrayError, read_array
from feddat.app.messages import CONFIG, ROUND, Member, ReplyError, TrainReply
from feddat.client.summing import SecureMember
from feddat.phases import phase
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.identity import MOST_CREDENTIAL
from feddat.privacy.secure_sum.masks import KEY_BYTES
from feddat.privacy.secure_sum.server import check_offer
from feddat.privacy.secure_sum.terms import COMMITMENT_BYTES, Offer

#: The record of bytes, and the array of a masked update.
SUM, MASKED = "sum", "masked"
#: Between names in one text; no name has it.
_BETWEEN = "\n"
#: Steps of the protocol after training; their messages have the type ``query.STEP``.
STEPS = ("share", "mask", "agree", "reveal")
#: Bytes of an offer, its credential not counted.
_OFFER = 2 * KEY_BYTES + COMMITMENT_BYTES


def message_type(step: str) -> str:
    """Return the type of a step's message."""
    return f"query.{step}"


# --- server to client -------------------------------------------------------------------------------------------------


def step_content(run: str, round: int, **values: bytes | str | list[str] | list[bytes]) -> RecordDict:
    """Return the content of a step's message."""
    head = ConfigRecord({"run": run, ROUND: round, **versions.told()})
    return RecordDict({CONFIG: head, SUM: ConfigRecord(values)})  # type: ignore[arg-type]


def share_values(
    client: str, names: Sequence[str], offers: Sequence[Offer], fresh: Mapping[str, bytes]
) -> dict[str, bytes | str | list[str] | list[bytes]]:
    """Return the content of ``share``.

    It leaves out commitments, because only the server checks secrets against them, and the receiver's own key.

    Args:
        client: the receiver.
        names: of all clients in the attempt, sorted.
        offers: theirs, in this order.
        fresh: name -> key of the run and credential, of clients that the receiver has not been shown yet.
    """
    values: dict[str, bytes | str | list[str] | list[bytes]] = {
        "names": _BETWEEN.join(names),
        "masks": b"".join(offer.mask for name, offer in zip(names, offers, strict=True) if name != client),
    }
    if fresh:
        values |= {"fresh.names": list(fresh), "fresh": list(fresh.values())}
    return values


@phase("messages")
def answer_step(member: SecureMember, message: Message, step: str) -> Message:
    """Let a client take a step, and return its answer.

    Raises:
        SumError: the message has the wrong form, or the protocol does not allow the step.
    """
    run, round = messages.read_run(message), message.content[CONFIG][ROUND]
    if not isinstance(round, int):
        raise SumError(f"round is {round!r}, expected a whole number")
    found = _Values(message, step)
    if step == "share":
        fresh = dict(zip(found.texts("fresh.names"), found.list("fresh"), strict=False)) if found.has("fresh") else {}
        names = found.text("names").split(_BETWEEN)
        return _answer(message, member.share(run, round, names, found.bytes("masks"), fresh))
    if step == "mask":
        packed, opened = member.mask(run, round, found.bytes("sharers"), found.bytes("sealed"))
        arrays = ArrayRecord({MASKED: messages.to_array(packed)})
        return Message(RecordDict({MASKED: arrays, SUM: ConfigRecord({"bytes": opened})}), reply_to=message)
    if step == "agree":
        return _answer(message, member.agree(run, round, found.bytes("survivors")))
    return _answer(message, member.reveal(run, round, found.bytes("witnesses"), found.bytes("tags")))


def _answer(message: Message, content: bytes) -> Message:
    return Message(RecordDict({SUM: ConfigRecord({"bytes": content})}), reply_to=message)


class _Values:
    """The entries of a server's message, each checked for its type."""

    def __init__(self, message: Message, step: str) -> None:
        record = message.content.get(SUM)
        self._values: Mapping[str, Any] = record if isinstance(record, ConfigRecord) else {}
        self._step = step

    def bytes(self, key: str) -> bytes:
        return cast(bytes, self._of(key, bytes))

    def has(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str) -> str:
        return cast(str, self._of(key, str))

    def texts(self, key: str) -> Sequence[str]:
        return [found for found in self._of(key, list) if isinstance(found, str)]

    def list(self, key: str) -> Sequence[Any]:
        return [found for found in self._of(key, list) if isinstance(found, bytes)]

    def _of(self, key: str, kind: type) -> Any:
        if not isinstance(found := self._values.get(key), kind):
            raise SumError(f"the server's message to {self._step} has no {key}")
        return found


# --- client to server -------------------------------------------------------------------------------------------------


def with_offer(reply: Message, offer: bytes) -> Message:
    """Add a client's offer to its reply about its training."""
    reply.content[SUM] = ConfigRecord({"bytes": offer})
    return reply


def read_offer(
    message: Message, member: Member, round: int, losses: Collection[str], below_zero: bool
) -> tuple[TrainReply, Offer, bytes]:
    """Return a checked train reply without arrays, the client's offer and its credential.

    Raises:
        ReplyError: the client failed, or its reply has the wrong form.
    """
    reply = messages.read_train_reply(
        message,
        member.name,
        round,
        {},
        sharing=member.sharing,
        losses=losses,
        below_zero=below_zero,
        beside={SUM},
    )
    content = _bytes(message, member.name)
    if not _OFFER <= len(content) <= _OFFER + MOST_CREDENTIAL:
        raise ReplyError(
            member.name, f"an offer of {len(content)} bytes, expected {_OFFER} to {_OFFER + MOST_CREDENTIAL}"
        )
    offer = Offer(content[:KEY_BYTES], content[KEY_BYTES : 2 * KEY_BYTES], content[2 * KEY_BYTES : _OFFER])
    try:
        check_offer(offer)
    except SumError as error:
        raise ReplyError(member.name, str(error)) from None
    return reply, offer, content[_OFFER:]


def read_bytes(message: Message, client: str) -> bytes:
    """Return the bytes of a client's answer to a step.

    Raises:
        ReplyError: the client failed, or its answer has another form.
    """
    messages.records_of(message, client, {SUM})
    return _bytes(message, client)


def read_masked(message: Message, client: str, size: int) -> tuple[NDArray[np.uint8], bytes]:
    """Return a masked update, uint8 (size,), and the bitmap of the clients whose shares the client could open.

    Raises:
        ReplyError: the client failed, or its answer has another form.
    """
    record = messages.records_of(message, client, {MASKED, SUM})[MASKED]
    try:
        if not isinstance(record, ArrayRecord) or set(record) != {MASKED}:
            raise ArrayError("is missing")
        packed = cast(NDArray[np.uint8], read_array(record[MASKED], np.dtype(np.uint8), (size,)))
    except ArrayError as error:
        raise ReplyError(client, f"the masked update {error}") from None
    return packed, _bytes(message, client)


def _bytes(message: Message, client: str) -> bytes:
    record = message.content.get(SUM)
    found = record.get("bytes") if isinstance(record, ConfigRecord) else None
    if not isinstance(found, bytes):
        raise ReplyError(client, "its part in the sum is not bytes")
    return found
