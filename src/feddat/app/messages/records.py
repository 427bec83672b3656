"""The records of a message: their names, how to look one up, and the errors for one that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from feddat.one_line import one_line

SHARED, CONFIG, METRICS = "shared", "config", "metrics"
FORMAT, DELTA = "wire.format", "wire.delta"
ROUND, EXAMPLES = "round", "num-examples"
#: LEDGER, in an instruction: the last round for which the server has the client's training.
#: KEPT, in a name reply: the newest round for which the client keeps its state.
LEDGER, KEPT = "ledger", "kept"
#: Prefix of the keys of extra arrays; no key of an adapter contains a slash.
EXTRA = "extra/"
#: The reason given for a node that disappeared while the server waited for its answer.
_GONE = "its node has gone: two heartbeats without a sign of life"
Value = TypeVar("Value")
Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)


class InstructionError(ValueError):
    """An instruction lacks a key, or a value has the wrong type; the message names the key."""


class ReplyError(ValueError):
    """A client's reply cannot be used.

    Attributes:
        client: who sent the reply.
        reason: what is wrong with it, in one line (:func:`~feddat.one_line.one_line`).
        failed: whether the client itself reported a failure, rather than sending something that does not fit.
    """

    def __init__(self, client: str, reason: str, *, failed: bool = False) -> None:
        self.client, self.reason = one_line(client), one_line(reason)
        super().__init__(f"client {self.client}: {self.reason}")
        self.failed = failed


@contextmanager
def checking(client: str) -> Iterator[None]:
    """Turn any exception that one reply causes into a refusal of that reply.

    Raises:
        ReplyError: the block raised an exception, ``MemoryError`` included.
    """
    try:
        yield
    except ReplyError:
        raise
    except Exception as error:  # No list of what a hostile reply can cause is complete.
        raise ReplyError(client, f"cannot be read: {type(error).__name__}: {error}") from error


def is_of_gone_node(message: Message) -> bool:
    """Tell whether Flower made this reply for a node whose heartbeats have stopped."""
    return message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE


def marked(extras: Mapping[str, Value]) -> dict[str, Value]:
    """Return extra arrays under the keys that they have in a message."""
    return {EXTRA + key: value for key, value in extras.items()}


def prefix_of(client: str, member: str) -> str:
    """Return the prefix of a member's metrics: none if the client is its only member."""
    return "" if member == client else f"{member}/"


def records_of(message: Message, client: str, expected: set[str]) -> RecordDict:
    """Return a reply's content.

    Raises:
        ReplyError: the client reported a failure, or the reply has other records than expected.
    """
    if message.has_error():
        reason = _GONE if is_of_gone_node(message) else message.error.reason or f"error code {message.error.code}"
        raise ReplyError(client, reason, failed=True)
    same_keys(client, "the records", message.content, expected)
    return message.content


def record_of(content: RecordDict, key: str, kind: type[Kind]) -> Kind:
    """Return a record of a message, or an empty one if there is none of this kind.

    Flower's own views (``array_records``) leave reference cycles, which keep whole messages until the next collection.
    """
    record = content.get(key)
    return record if isinstance(record, kind) else kind()


def same_keys(client: str, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Check that a reply has exactly the expected keys.

    Raises:
        ReplyError: names up to three keys that are missing, and up to three that are not expected.
    """
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [
            f"{word} {', '.join(keys[:3])}" for word, keys in (("missing", missing), ("unexpected", extra)) if keys
        ]
        raise ReplyError(client, f"keys of {what} do not fit: {'; '.join(parts)}")
