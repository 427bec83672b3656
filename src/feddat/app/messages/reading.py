"""Client to server: the server reads a client's reply without trusting it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import versions
from feddat.app import wire as wires
from feddat.app.arrays import ArrayError, read_array
from feddat.app.messages.records import (
    CONFIG,
    EXAMPLES,
    EXTRA,
    KEPT,
    METRICS,
    ROUND,
    SHARED,
    ReplyError,
    marked,
    prefix_of,
    record_of,
    records_of,
    same_keys,
)
from feddat.app.messages.replies import EvaluateReply, Member, TrainReply
from feddat.client_names import name_problem
from feddat.config import SHARING, Sharing, WireConfig
from feddat.phases import phase

#: Metrics of training that every method reports, besides its own losses.
TOLD = frozenset({"examples", "steps", "seconds", "forward", "backward"})
#: Those that a client with its own file keeps: how long it trained, and how many passes it made.
COSTS = frozenset({"seconds", "forward", "backward"})
#: The counts of parameters that a client reports.
_COUNTED = frozenset({"total", "trainable", "communicated"})
#: The largest value of a metric, and the largest count.
_MOST_METRIC, _MOST_COUNT = 1e9, 10**13
#: Rounding may take a loss this far below 0.
_ROUNDING = 1e-3
#: The most members that one client may answer for.
_MOST_MEMBERS = 10_000


def read_name(message: Message) -> Member:
    """Return who answered a query.

    Raises:
        ReplyError: the node reported a failure, or its answer is not valid.
    """
    node = f"node {message.metadata.src_node_id}"
    config = record_of(records_of(message, node, {CONFIG}), CONFIG, ConfigRecord)
    try:
        versions.check(config, "it", "this server")
    except versions.VersionError as error:
        raise ReplyError(node, str(error)) from None
    name, members = config.get("client"), config.get("members")
    named = tuple(cast(list[str], members)) if isinstance(members, list) else ()
    if not isinstance(name, str) or not 0 < len(named) <= _MOST_MEMBERS or any(map(_no_name, (name, *named))):
        raise ReplyError(node, "did not send a valid client name and valid names of its members")
    if len(set(named)) < len(named):
        raise ReplyError(node, f"client {name} names a member twice")
    if not isinstance(sharing := config.get("sharing"), str) or sharing not in SHARING:
        raise ReplyError(node, f"client {name} shares {sharing!r}, expected one of {', '.join(SHARING)}")
    counts = {key.removeprefix("parameters."): value for key, value in config.items() if key.startswith("parameters.")}
    for key, value in counts.items():
        if key not in _COUNTED or type(value) is not int or not 0 <= value <= _MOST_COUNT:
            raise ReplyError(node, f"client {name} counts its parameters as {key}: {value!r}")
    examples = config.get(EXAMPLES)
    if examples is not None and (type(examples) is not int or not 0 <= examples <= _MOST_COUNT):
        raise ReplyError(node, f"client {name} claims {examples!r} examples")
    kept = config.get(KEPT)
    if type(kept) is not int or not 0 <= kept <= _MOST_COUNT:
        raise ReplyError(node, f"client {name} keeps its state of round {kept!r}")
    return Member(name, named, cast(dict[str, int], counts), sharing, examples, kept)


@phase("messages")
def read_train_reply(
    message: Message,
    client: str,
    round: int,
    shapes: Shapes,
    extra_shapes: Shapes | None = None,
    wire: WireConfig = WireConfig(),
    sent: Mapping[str, Tensor] | None = None,
    sharing: Sharing = "scores",
    losses: Collection[str] = ("loss",),
    below_zero: bool = False,
    beside: Collection[str] = (),
) -> TrainReply:
    """Return a checked train reply.

    Args:
        message: the reply.
        client: the client that must have sent it.
        round: the round that it must answer.
        shapes: the tensors that the shared part must have; empty if none may come.
        extra_shapes: the extra arrays that must come with it.
        wire: how the shared part must be packed.
        sent: the shared part that the client received, to which differences are added.
        sharing: how much of its metrics the client said it shares.
        losses: names of the losses that the method reports: ``loss`` and others, or none if the client keeps them.
        below_zero: whether losses may be below 0.
        beside: further records that must be there; the caller reads them.

    Raises:
        ReplyError: the client reported a failure; or round, keys, shapes, types or values do not fit.
    """
    expected = wires.layout(shapes, wire) | wires.layout(marked(extra_shapes or {}), WireConfig())
    content = records_of(message, client, {*((SHARED, METRICS) if expected else (METRICS,)), *beside})
    metrics = _metrics(content, client, round, 1, sharing)
    arrays = record_of(content, SHARED, ArrayRecord)
    same_keys(client, "the shared part", arrays, expected)
    found: wires.Packed = {}
    for key, (dtype, shape) in expected.items():
        try:
            found[key] = read_array(arrays[key], dtype, shape)
        except ArrayError as error:
            raise ReplyError(client, f"array {key} {error}") from None
    packed = {key: found.pop(key) for key in wires.layout(shapes, wire)}
    values = found | wires.unpack(packed, wire, sent if wire.delta else None)
    for key, value in values.items():
        if not np.isfinite(value).all():
            raise ReplyError(client, f"array {key} has NaN or infinite values")
    return TrainReply(
        shared={key: values[key] for key in shapes},
        extras={key: values[EXTRA + key] for key in extra_shapes or {}},
        examples=int(metrics[EXAMPLES]) if EXAMPLES in metrics else None,
        metrics=_losses(metrics, client, losses, below_zero, sharing),
    )


@phase("messages")
def read_evaluate_reply(message: Message, member: Member, round: int, routes: Sequence[str]) -> EvaluateReply:
    """Return a checked evaluate reply: one score in [0, 100] per route, for every member with examples.

    There are no scores if the client keeps them back, and no examples either if it shares ``none``.

    Raises:
        ReplyError: the client reported a failure; or round, keys or values do not fit.
    """
    sharing = member.sharing
    metrics = _metrics(records_of(message, member.name, {METRICS}), member.name, round, 0, sharing)
    if sharing == "none":
        same_keys(member.name, "the scores", metrics, {ROUND})
        return EvaluateReply({}, {})
    expected = {ROUND, EXAMPLES}
    scores: dict[str, dict[str, float]] = {}
    examples: dict[str, int] = {}
    for name in member.members:
        prefix = prefix_of(member.name, name)
        examples[name] = _count(metrics, member.name, f"{prefix}examples")
        keys = {route: f"{prefix}score.{route}" for route in routes} if examples[name] else {}
        if sharing == "counts":
            keys = {}
        expected |= {f"{prefix}examples", *keys.values()}
        scores[name] = {route: float(metrics.get(key, 0.0)) for route, key in keys.items()}
        for route, score in scores[name].items():
            if not 0 <= score <= 100:
                raise ReplyError(member.name, f"score of {name} on route {route} is {score}, expected 0 to 100")
    same_keys(member.name, "the scores", metrics, expected)
    return EvaluateReply({name: values for name, values in scores.items() if values}, examples)


def _count(metrics: Mapping[str, float | int], client: str, key: str) -> int:
    value = metrics.get(key, 0)
    if not isinstance(value, int) or not 0 <= value <= _MOST_COUNT:
        raise ReplyError(client, f"{key} is {value}, expected a whole number from 0 to {_MOST_COUNT}")
    return value


def _no_name(text: object) -> bool:
    return not isinstance(text, str) or name_problem(text) is not None


def _metrics(content: RecordDict, client: str, round: int, at_least: int, sharing: Sharing) -> dict[str, float | int]:
    record = record_of(content, METRICS, MetricRecord)
    if any(isinstance(value, list) for value in record.values()):
        raise ReplyError(client, "the metrics are not a record of single numbers")
    metrics: dict[str, float | int] = dict(record)  # type: ignore[arg-type]
    if metrics.get(ROUND) != round:
        raise ReplyError(client, f"answers for round {metrics.get(ROUND)}, expected {round}")
    examples = metrics.get(EXAMPLES)
    if sharing == "none" and examples is None:
        examples = at_least
    if not isinstance(examples, int) or examples < at_least:
        raise ReplyError(client, f"{EXAMPLES} is {examples}, expected a whole number of at least {at_least}")
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise ReplyError(client, f"metric {key} is {value}")
    return metrics


def _losses(
    metrics: Mapping[str, float | int], client: str, names: Collection[str], below_zero: bool, sharing: Sharing
) -> dict[str, float]:
    """Return a client's checked training metrics; values that rounding took below the least value are raised to it."""
    found = {key: float(value) for key, value in metrics.items() if key not in (ROUND, EXAMPLES)}
    allowed = {f"train.{name}" for name in {*names, *TOLD}} if sharing == "scores" else set()
    losses = {f"train.{name}" for name in names} & found.keys()
    least = {"train.loss"} if losses and sharing == "scores" else set()
    same_keys(client, "the metrics", found, (allowed & found.keys()) | least)
    least_value = -_MOST_METRIC if below_zero else 0.0
    for key, value in found.items():
        if not least_value - _ROUNDING <= value <= _MOST_METRIC:
            raise ReplyError(client, f"metric {key} is {value:g}, expected {least_value:g} to {_MOST_METRIC:g}")
    return {key.removeprefix("train."): max(value, least_value) for key, value in found.items()}
