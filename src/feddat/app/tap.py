"""What an honest-but-curious server can keep: a client app that reads its messages and passes them on unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from torch import Tensor

from feddat.app import messages, wire
from feddat.app.arrays import read_array
from feddat.app.client import client_name


@dataclass(frozen=True, slots=True)
class Seen:
    """One exchange of a round's training, as the server sees it.

    Attributes:
        round: 1-based.
        client: name of the client.
        received: the shared part that the client received; empty if nothing travels.
        sent: the shared part that it sent back; empty if the reply is an error or holds no readable shared part.
        metrics: the numbers beside it, as far as the client shares them.
    """

    round: int
    client: str
    received: dict[str, Tensor]
    sent: dict[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)


#: Receives every observed exchange.
Watcher: TypeAlias = Callable[[Seen], None]


class TappedApp(ClientApp):
    """A client app that shows a watcher every training message and its reply, and changes neither."""

    def __init__(self, app: ClientApp, watcher: Watcher) -> None:
        super().__init__()
        self._app, self._watcher = app, watcher

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the app's reply."""
        reply = self._app(message, context)
        if message.metadata.message_type == "train":
            ask = messages.read_instruction(message)
            received = {key: value.clone() for key, value in (ask.shared or {}).items()}
            self._watcher(Seen(ask.round, client_name(context), received, _sent(reply, ask), _metrics(reply)))
        return reply


def _metrics(reply: Message) -> dict[str, float]:
    record = None if reply.has_error() else reply.content.get(messages.METRICS)
    if not isinstance(record, MetricRecord):
        return {}
    return {key: float(value) for key, value in record.items() if isinstance(value, int | float)}


def _sent(reply: Message, ask: messages.Instruction) -> dict[str, Tensor]:
    """Return the unpacked shared part of a reply; empty if the reply has none with the expected shapes."""
    record = None if reply.has_error() else reply.content.get(messages.SHARED)
    if ask.shared is None or not isinstance(record, ArrayRecord):
        return {}
    expected = wire.layout({key: tuple(value.shape) for key, value in ask.shared.items()}, ask.wire)
    if not expected.keys() <= record.keys():
        return {}
    try:
        packed = {key: read_array(record[key], dtype, shape) for key, (dtype, shape) in expected.items()}
    except ValueError:  # a masked update, which is not readable as a state
        return {}
    unpacked = wire.unpack(packed, ask.wire, ask.shared if ask.wire.delta else None)
    return {key: torch.from_numpy(value.copy()) for key, value in unpacked.items()}
