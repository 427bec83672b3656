"""Messages of a secure sum: what travels between server and clients beside, and in place of, an update.

| message | server to client | client to server |
| --- | --- | --- |
| train | as without | examples, losses; two keys, a commitment, its certificate |
| query.share | names, keys, commitments; certificates that are new | two shares for each other client, sealed |
| query.mask | who has shared; what they sealed for it | its update, masked |
| query.agree | whose update is in the sum | a tag on that set for each other client |
| query.reveal | the others' tags | one share for each client |

Bytes lie in a record ``sum``; the masked update is an array, since those may be large. The protocol's own checks are
in :mod:`feddat.privacy.secure_sum`; here is looked at form alone.
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
#: Steps of the protocol after training; messages are of the type ``query.STEP``.
STEPS = ("share", "mask", "agree", "reveal")
#: Bytes of an offer without its credential.
_OFFER = 2 * KEY_BYTES + COMMITMENT_BYTES


def message_type(step: str) -> str:
    """Return the type of a step's message."""
    return f"query.{step}"


# --- server to client -------------------------------------------------------------------------------------------------


def step_content(run: str, round: int, **values: bytes | list[str] | list[bytes]) -> RecordDict:
    """Return the content of a step's message."""
    head = ConfigRecord({"run": run, ROUND: round, **versions.told()})
    return RecordDict({CONFIG: head, SUM: ConfigRecord(values)})  # type: ignore[arg-type]


def share_values(
    names: Sequence[str], offers: Sequence[Offer], fresh: Mapping[str, bytes]
) -> dict[str, bytes | list[str] | list[bytes]]:
    """Return what ``share`` tells; ``fresh``: name -> key of the run and credential."""
    return {
        "names": list(names),
        "masks": b"".join(offer.mask for offer in offers),
        "commitments": b"".join(offer.commitment for offer in offers),
        "fresh.names": list(fresh),
        "fresh": list(fresh.values()),
    }


@phase("messages")
def answer_step(member: SecureMember, message: Message, step: str) -> Message:
    """Let a client take a step, and return its answer.

    Raises:
        SumError: the message is not of the form that it must have, or the protocol does not allow the step.
    """
    run, round = messages.read_run(message), message.content[CONFIG][ROUND]
    if not isinstance(round, int):
        raise SumError(f"round is {round!r}, expected a whole number")
    found = _Values(message, step)
    if step == "share":
        fresh = dict(zip(found.texts("fresh.names"), found.list("fresh"), strict=False))
        names, offered = found.texts("names"), (found.bytes("masks"), found.bytes("commitments"))
        return _answer(message, member.share(run, round, names, *offered, fresh))
    if step == "mask":
        packed = member.mask(run, round, found.bytes("sharers"), found.bytes("sealed"))
        arrays = ArrayRecord({MASKED: messages.to_array(packed)})
        return Message(RecordDict({MASKED: arrays}), reply_to=message)
    if step == "agree":
        return _answer(message, member.agree(run, round, found.bytes("survivors")))
    return _answer(message, member.reveal(run, round, found.bytes("witnesses"), found.bytes("tags")))


def _answer(message: Message, content: bytes) -> Message:
    return Message(RecordDict({SUM: ConfigRecord({"bytes": content})}), reply_to=message)


class _Values:
    """What a server tells in a step, of the types that it must have."""

    def __init__(self, message: Message, step: str) -> None:
        record = message.content.get(SUM)
        self._values: Mapping[str, Any] = record if isinstance(record, ConfigRecord) else {}
        self._step = step

    def bytes(self, key: str) -> bytes:
        return cast(bytes, self._of(key, bytes))

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
    """Put a client's offer beside what else it tells of its training."""
    reply.content[SUM] = ConfigRecord({"bytes": offer})
    return reply


def read_offer(
    message: Message, member: Member, round: int, losses: Collection[str], below_zero: bool
) -> tuple[TrainReply, Offer, bytes]:
    """Return a checked train reply without arrays, the client's offer, and its credential.

    Raises:
        ReplyError: the client failed, or what it sends does not fit.
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
    """Return what a client answers to a step.

    Raises:
        ReplyError: the client failed, or it answers something else.
    """
    messages.check_records(message, client, {SUM})
    return _bytes(message, client)


def read_masked(message: Message, client: str, size: int) -> NDArray[np.uint8]:
    """Return a masked update of so many bytes.

    Raises:
        ReplyError: the client failed, or it answers something else.
    """
    messages.check_records(message, client, {MASKED})
    record = message.content[MASKED]
    try:
        if not isinstance(record, ArrayRecord) or set(record) != {MASKED}:
            raise ArrayError("is missing")
        return cast(NDArray[np.uint8], read_array(record[MASKED], np.dtype(np.uint8), (size,)))
    except ArrayError as error:
        raise ReplyError(client, f"the masked update {error}") from None


def _bytes(message: Message, client: str) -> bytes:
    record = message.content.get(SUM)
    found = record.get("bytes") if isinstance(record, ConfigRecord) else None
    if not isinstance(found, bytes):
        raise ReplyError(client, "its part in the sum is not bytes")
    return found
