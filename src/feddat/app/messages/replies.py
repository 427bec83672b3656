"""Client to server: how a client writes its replies, and what the server reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from feddat.app import versions
from feddat.app import wire as wires
from feddat.app.messages.records import CONFIG, EXAMPLES, KEPT, METRICS, ROUND, SHARED, marked, prefix_of
from feddat.app.messages.tensors import to_arrays
from feddat.config import Sharing
from feddat.phases import phase

#: Values that Flower accepts for a MetricRecord.
MetricValues: TypeAlias = dict[str, int | float | list[int] | list[float]]


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the server knows it.

    Attributes:
        name: client name.
        members: clients whose data it answers for; more than one if training is centralised.
        parameters: ``total``, ``trainable`` and ``communicated`` parameters; empty if the client keeps them back.
        sharing: how much of its metrics it shares.
        examples: its number of training examples; ``None`` if it keeps that back.
        kept: newest round of this run for which it keeps its state; 0: none.
    """

    name: str
    members: tuple[str, ...]
    parameters: Mapping[str, int] = field(default_factory=dict)
    sharing: Sharing = "scores"
    examples: int | None = None
    kept: int = 0


@dataclass(frozen=True, slots=True)
class TrainReply:
    """A checked reply to a train message; ``examples`` is ``None`` if the client keeps the number back.

    Arrays may be views of the message: they are read-only.
    """

    shared: dict[str, NDArray[np.float32]]
    extras: dict[str, NDArray[np.float32]]
    examples: int | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvaluateReply:
    """A checked reply to an evaluate message: scores in percent by member and route, examples by member."""

    scores: dict[str, dict[str, float]]
    examples: dict[str, int]


def name_reply(message: Message, member: Member) -> Message:
    """Return the answer to a query, which says who this node is."""
    told: dict[str, Any] = {"client": member.name, "members": list(member.members), "sharing": member.sharing}
    config = ConfigRecord(told | {KEPT: member.kept} | versions.told())
    if member.sharing != "none":
        if member.examples is not None:
            config[EXAMPLES] = member.examples
        for key, value in member.parameters.items():
            config[f"parameters.{key}"] = value
    return Message(RecordDict({CONFIG: config}), reply_to=message)


@phase("messages")
def train_reply(
    message: Message,
    round: int,
    shared: Mapping[str, Tensor] | wires.Packed | None,
    examples: int,
    metrics: Mapping[str, float],
    extras: Mapping[str, Tensor] | None = None,
    sharing: Sharing = "scores",
) -> Message:
    """Return the answer to a train message; ``shared`` is tensors, sent as fp32, or what :func:`.wire.pack` packed."""
    values: MetricValues = {ROUND: round}
    if sharing != "none":
        values[EXAMPLES] = examples
    if sharing == "scores":
        values |= {f"train.{key}": float(value) for key, value in metrics.items()}
    content = RecordDict({METRICS: MetricRecord(values)})
    arrays: dict[str, Tensor | NDArray[Any]] = {**(shared or {}), **marked(extras or {})}
    if arrays:
        content[SHARED] = to_arrays(arrays)
    return Message(content, reply_to=message)


@phase("messages")
def evaluate_reply(
    message: Message,
    round: int,
    client: str,
    scores: Mapping[str, Mapping[str, float]],
    examples: Mapping[str, int],
    sharing: Sharing = "scores",
) -> Message:
    """Return the answer to an evaluate message.

    Keys start with the member's name, unless the client is its only member. A member without examples has no scores.
    """
    values: MetricValues = {ROUND: round}
    if sharing != "none":
        values[EXAMPLES] = sum(examples.values())
        values |= {f"{prefix_of(client, member)}examples": count for member, count in examples.items()}
    if sharing == "scores":
        for member in examples:
            prefix = prefix_of(client, member)
            values.update({f"{prefix}score.{route}": float(score) for route, score in scores.get(member, {}).items()})
    return Message(RecordDict({METRICS: MetricRecord(values)}), reply_to=message)
