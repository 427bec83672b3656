"""What travels between server and clients: the one place that knows what a message holds.

| message | server to client | client to server |
| --- | --- | --- |
| query | the run's id | the client's name, members and newest state's round, counts of parameters and examples |
| train | the global adapter, extra arrays; round, rounds, run, model, ledger | the same; examples; losses |
| evaluate | the global adapter, other extras; the same; split, if final | number of examples; one score per route |

Either side tells its version (:mod:`.versions`), and no key of an instruction may be missing. The ledger is the last
round that the server has this client's training of.
Nothing else leaves a client: no data, no head, no local adapter. Methods that do not communicate send no arrays at all.
Of the metrics a client may keep back its losses and scores (``share_metrics: counts``), and its numbers of examples and
of parameters as well (``none``).
Of the global adapter only those entries travel that the algorithm shares, packed as ``wire`` says (:mod:`.wire`); an
instruction names the format, and the client answers in the same. Extra arrays (control
variates, for example) are the algorithm's too and always fp32; they lie in the adapter's ArrayRecord, since Flower
wants one per message, under a prefix.
Everything that arrives is checked before it is used; what does not fit is a :class:`ReplyError`. Metrics have names
from a list and values within bounds, arrays are read by :mod:`.arrays`, and texts become one line (:mod:`..one_line`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode, SType
from flwr.common.serde import recorddict_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import versions
from feddat.app import wire as wires
from feddat.app.arrays import ArrayError, read_array
from feddat.client_names import name_problem
from feddat.config import SHARING, Sharing, WireConfig
from feddat.one_line import one_line
from feddat.phases import phase

SHARED, CONFIG, METRICS = "shared", "config", "metrics"
FORMAT, DELTA = "wire.format", "wire.delta"
ROUND, EXAMPLES = "round", "num-examples"
#: In an instruction: the last round of the client's training that the server knows of. In a name reply: the newest
#: round that the client keeps its state of.
LEDGER, KEPT = "ledger", "kept"
#: Before the keys of extra arrays; no key of an adapter has a slash.
EXTRA = "extra/"
#: What a client tells of its training whatever the method is, beside the losses that the method names.
TOLD = frozenset({"examples", "steps", "seconds", "forward", "backward"})
#: What a client counts of its parameters.
_COUNTED = frozenset({"total", "trainable", "communicated"})
#: The largest value of a metric, and the largest count.
_MOST_METRIC, _MOST_COUNT = 1e9, 10**13
#: By so much a loss may be below 0, for rounding.
_ROUNDING = 1e-3
#: Members that one client may answer for.
_MOST_MEMBERS = 10_000
#: What the answer of a node is that has gone while it was waited for.
_GONE = "its node has gone: two heartbeats without a sign of life"

Value = TypeVar("Value")
Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)
#: What Flower takes for a MetricRecord.
MetricValues: TypeAlias = dict[str, int | float | list[int] | list[float]]


#: Keys of an instruction -> their types. None of them has a default: the other side's may be another one.
INSTRUCTED: dict[str, type] = {
    ROUND: int,
    "rounds": int,
    "final": bool,
    "split": str,
    "run": str,
    "model": list,
    LEDGER: int,
    FORMAT: str,
    DELTA: bool,
    versions.PACKAGE: str,
    versions.NUMBER: int,
}


class InstructionError(ValueError):
    """An instruction lacks a key, or one is of another type; the message names it."""


class ReplyError(ValueError):
    """A client's reply cannot be used.

    Attributes:
        client: whose reply it is.
        reason: what is wrong with it, in one line (:func:`~feddat.one_line.one_line`).
        failed: the client reported a failure itself, rather than sending something that does not fit.
    """

    def __init__(self, client: str, reason: str, *, failed: bool = False) -> None:
        self.client, self.reason = one_line(client), one_line(reason)
        super().__init__(f"client {self.client}: {self.reason}")
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the server knows it.

    Attributes:
        name: client name.
        members: whose data it answers for; more than one: centralised.
        parameters: ``total``, ``trainable`` and ``communicated`` parameters; empty where the client keeps them back.
        sharing: what of its metrics it lets out.
        examples: its number of training examples; ``None`` where it keeps that back.
        kept: newest round of this run that it keeps its state of; 0: of none.
    """

    name: str
    members: tuple[str, ...]
    parameters: Mapping[str, int] = field(default_factory=dict)
    sharing: Sharing = "scores"
    examples: int | None = None
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the server asks of a client.

    Attributes:
        run: id of the run, the same when it is resumed.
        round, rounds, final, split: where the run stands, and what is asked for.
        model: part of the server's model -> its hash.
        shared: the shared part, not to be written to; ``None``: there is none.
        extras: the extra arrays.
        wire: how the shared part came, and how the client's is to be packed.
        ledger: last round that the server has this client's training of; 0: none.
    """

    run: str
    model: dict[str, str]
    round: int
    rounds: int
    final: bool
    split: str
    shared: dict[str, Tensor] | None
    extras: dict[str, Tensor]
    wire: WireConfig
    ledger: int


@dataclass(frozen=True, slots=True)
class TrainReply:
    """A checked reply to a train message; without ``examples`` where the client keeps their number back.

    Arrays may be views of the message, and cannot be written to.
    """

    shared: dict[str, NDArray[np.float32]]
    extras: dict[str, NDArray[np.float32]]
    examples: int | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvaluateReply:
    """A checked reply to an evaluate message: percent by member and route, examples by member."""

    scores: dict[str, dict[str, float]]
    examples: dict[str, int]


@phase("messages")
def wire_size(message: Message) -> int:
    """Return the serialised size of a message's content in bytes; the envelope (ids, time stamps) is not counted.

    It is computed: Flower's protocol buffers would hold a second copy of the arrays, and none beyond 2 GiB.
    """
    if not message.has_content():
        return 0
    size = 0
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            items = sum(_field(_field(len(name.encode())) + _field(_array_size(a))) for name, a in record.items())
            size += _field(_field(len(key.encode())) + _field(items))
        else:
            size += int(recorddict_to_proto(RecordDict({key: record})).ByteSize())
    return size


def _array_size(array: Array) -> int:
    size = int(ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype).ByteSize())
    return size + (_field(len(array.data)) if array.data else 0)


def _field(length: int) -> int:
    """Return the size of a protocol buffer's field of so many bytes: tag, length (7 bits a byte), content."""
    return 1 + max(1, (length.bit_length() + 6) // 7) + length


def most_bytes(shapes: Shapes, extra_shapes: Shapes, wire: WireConfig) -> int:
    """Return how many bytes a client's reply may have: of its arrays, and far more than enough of the rest."""
    arrays = wires.layout(shapes, wire) | wires.layout(_marked(extra_shapes), WireConfig())
    return sum(dtype.itemsize * math.prod(shape) + 4096 for dtype, shape in arrays.values()) + 2**20


@phase("messages")
def to_arrays(state: Mapping[str, Tensor | NDArray[Any]]) -> ArrayRecord:
    """Return tensors as an ArrayRecord of float32 NumPy arrays, and arrays as they are, in the order given."""
    return ArrayRecord(
        {
            key: to_array(
                value.detach().to("cpu", torch.float32).contiguous().numpy() if isinstance(value, Tensor) else value
            )
            for key, value in state.items()
        }
    )


def to_array(value: NDArray[Any]) -> Array:
    """Return what ``Array(value)`` does, its bytes copied once: Flower holds them three times while it makes it."""
    value = np.require(value, requirements="C")
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    data = b"".join((header.getvalue(), value.reshape(-1).view(np.uint8).data))
    return Array(str(value.dtype), tuple(value.shape), SType.NUMPY, data)


@phase("messages")
def to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return an ArrayRecord's arrays as tensors: views of its bytes, not to be written to."""
    return {key: as_tensor(read_array(array)) for key, array in record.items()}


def as_tensor(value: NDArray[Any]) -> Tensor:
    """Return an array as a tensor that shares its memory; of a read-only one, not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(value)


# --- server to client -------------------------------------------------------------------------------------------------


def query_content(run: str) -> RecordDict:
    """Return a query's content: the run for which the server asks who a node is."""
    return RecordDict({CONFIG: ConfigRecord({"run": run, **versions.told()})})


def instruction_config(
    round: int,
    rounds: int,
    split: str = "train",
    final: bool = False,
    run: str = "",
    model: Mapping[str, str] | None = None,
) -> ConfigRecord:
    """Return the settings part of an instruction; ``final`` marks the evaluation that gives the run's scores."""
    identity = [f"{part}={value}" for part, value in (model or {}).items()]
    asked: dict[str, Any] = {ROUND: round, "rounds": rounds, "split": split, "final": final, "run": run}
    usual = WireConfig()
    asked |= {"model": identity, LEDGER: 0, FORMAT: usual.format, DELTA: usual.delta}
    return ConfigRecord(asked | versions.told())


def addressed(content: RecordDict, ledger: int) -> RecordDict:
    """Return an instruction's content for one client, whose last known training was in round ``ledger``."""
    config = ConfigRecord({**_record(content, CONFIG, ConfigRecord), LEDGER: ledger})
    return RecordDict({key: config if key == CONFIG else record for key, record in content.items()})


@phase("messages")
def instruction_content(
    arrays: ArrayRecord,
    config: ConfigRecord,
    extras: Mapping[str, Tensor] | None = None,
    wire: WireConfig = WireConfig(),
) -> RecordDict:
    """Return an instruction's content: the shared part and the extra arrays; what is empty is not sent.

    Args:
        arrays: the shared part, float32, such as :func:`.wire.settle` gives where ``wire`` is lossy.
        config: see :func:`instruction_config`.
        extras: the extra arrays.
        wire: how the shared part is packed, here and in the reply.
    """
    if wire != WireConfig():
        config = ConfigRecord({**config, FORMAT: wire.format, DELTA: wire.delta})
        arrays = to_arrays(wires.pack(to_tensors(arrays), wire)[0])
    arrays = ArrayRecord({**arrays, **to_arrays(_marked(extras or {}))})
    return RecordDict({SHARED: arrays, CONFIG: config} if arrays else {CONFIG: config})


def read_run(message: Message) -> str:
    """Return the id of the run that a message of any kind belongs to."""
    return str(_record(message.content, CONFIG, ConfigRecord)["run"])


@phase("messages")
def read_instruction(message: Message) -> Instruction:
    """Return what a train or evaluate message asks for.

    Raises:
        InstructionError: a key is missing or of another type.
    """
    content = message.content
    config = _record(content, CONFIG, ConfigRecord)
    check_instructed(config)
    wire = WireConfig.model_validate({"format": config[FORMAT], "delta": config[DELTA]})
    arrays = {key: read_array(array) for key, array in _record(content, SHARED, ArrayRecord).items()}
    packed = {key: value for key, value in arrays.items() if not key.startswith(EXTRA)}
    shared = {key: as_tensor(value) for key, value in wires.unpack(packed, wire).items()}
    return Instruction(
        run=str(config["run"]),
        model=dict(part.split("=", 1) for part in cast(list[str], config["model"])),
        round=int(config[ROUND]),  # type: ignore[arg-type]
        rounds=int(config["rounds"]),  # type: ignore[arg-type]
        final=bool(config["final"]),
        split=str(config["split"]),
        ledger=int(config[LEDGER]),  # type: ignore[arg-type]
        shared=shared or None,
        extras={
            key.removeprefix(EXTRA): torch.from_numpy(value.copy())  # an algorithm may write to it
            for key, value in arrays.items()
            if key.startswith(EXTRA)
        },
        wire=wire,
    )


def check_instructed(config: Mapping[str, Any]) -> None:
    """See to it that an instruction has every key: none is filled from this side's own defaults.

    Raises:
        InstructionError: names one that is missing or of another type.
    """
    for key, kind in INSTRUCTED.items():
        if type(config.get(key)) is not kind:
            raise InstructionError(f"the instruction's {key} is missing or not of type {kind.__name__}")


def check_versions(message: Message) -> None:
    """Compare the version of a message's server with this client's.

    Raises:
        VersionError: it is another.
    """
    config = _record(message.content, CONFIG, ConfigRecord) if message.has_content() else {}
    versions.check(config, "the server", "this client")


# --- client to server -------------------------------------------------------------------------------------------------


def name_reply(message: Message, member: Member) -> Message:
    """Return the answer to a query: who this node is."""
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
    """Return the answer to a train message; ``shared``: tensors, sent as fp32, or packed by :func:`.wire.pack`."""
    values: MetricValues = {ROUND: round}
    if sharing != "none":
        values[EXAMPLES] = examples
    if sharing == "scores":
        values |= {f"train.{key}": float(value) for key, value in metrics.items()}
    content = RecordDict({METRICS: MetricRecord(values)})
    arrays: dict[str, Tensor | NDArray[Any]] = {**(shared or {}), **_marked(extras or {})}
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

    Keys carry the member's name, unless the client is its only member. A member without examples has no scores.
    """
    values: MetricValues = {ROUND: round}
    if sharing != "none":
        values[EXAMPLES] = sum(examples.values())
        values |= {f"{_prefix(client, member)}examples": count for member, count in examples.items()}
    if sharing == "scores":
        for member in examples:
            prefix = _prefix(client, member)
            values.update({f"{prefix}score.{route}": float(score) for route, score in scores.get(member, {}).items()})
    return Message(RecordDict({METRICS: MetricRecord(values)}), reply_to=message)


def read_name(message: Message) -> Member:
    """Return who answered a query.

    Raises:
        ReplyError: the node failed, or its answer is not a name.
    """
    node = f"node {message.metadata.src_node_id}"
    config = _record(_records(message, node, {CONFIG}), CONFIG, ConfigRecord)
    try:
        versions.check(config, "it", "this server")
    except versions.VersionError as error:
        raise ReplyError(node, str(error)) from None
    name, members = config.get("client"), config.get("members")
    named = tuple(cast(list[str], members)) if isinstance(members, list) else ()
    if not isinstance(name, str) or not 0 < len(named) <= _MOST_MEMBERS or any(map(_no_name, (name, *named))):
        raise ReplyError(node, "did not tell its client name and members, or told what can be no name")
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
        raise ReplyError(node, f"client {name} says to have {examples!r} examples")
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
        client: whose reply it must be.
        round: that it must answer for.
        shapes: the tensors that the shared part must have (empty: none may come).
        extra_shapes: the extra arrays that must come with it.
        wire: how the shared part must be packed.
        sent: the shared part that the client received, to which differences are added.
        sharing: what of its metrics the client said it lets out.
        losses: names of what the method reports; ``loss`` must be there where the client lets it out.
        below_zero: whether they may be below 0.
        beside: further records that must be there, for others to read.

    Raises:
        ReplyError: the client failed; or round, keys, shapes, types or values do not fit.
    """
    expected = wires.layout(shapes, wire) | wires.layout(_marked(extra_shapes or {}), WireConfig())
    content = _records(message, client, {*((SHARED, METRICS) if expected else (METRICS,)), *beside})
    metrics = _metrics(content, client, round, 1, sharing)
    arrays = _record(content, SHARED, ArrayRecord)
    _same_keys(client, "the shared part", arrays, expected)
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
    """Return a checked evaluate reply: for every member with examples, one score in [0, 100] per route.

    A client that keeps its scores back has none in it, and one that keeps everything back no examples either.

    Raises:
        ReplyError: the client failed; or round, keys or values do not fit.
    """
    sharing = member.sharing
    metrics = _metrics(_records(message, member.name, {METRICS}), member.name, round, 0, sharing)
    if sharing == "none":
        _same_keys(member.name, "the scores", metrics, {ROUND})
        return EvaluateReply({}, {})
    expected = {ROUND, EXAMPLES}
    scores: dict[str, dict[str, float]] = {}
    examples: dict[str, int] = {}
    for name in member.members:
        prefix = _prefix(member.name, name)
        examples[name] = _count(metrics, member.name, f"{prefix}examples")
        keys = {route: f"{prefix}score.{route}" for route in routes} if examples[name] else {}
        if sharing == "counts":
            keys = {}
        expected |= {f"{prefix}examples", *keys.values()}
        scores[name] = {route: float(metrics.get(key, 0.0)) for route, key in keys.items()}
        for route, score in scores[name].items():
            if not 0 <= score <= 100:
                raise ReplyError(member.name, f"score of {name} on route {route} is {score}, expected 0 to 100")
    _same_keys(member.name, "the scores", metrics, expected)
    return EvaluateReply({name: values for name, values in scores.items() if values}, examples)


def _count(metrics: Mapping[str, float | int], client: str, key: str) -> int:
    value = metrics.get(key, 0)
    if not isinstance(value, int) or not 0 <= value <= _MOST_COUNT:
        raise ReplyError(client, f"{key} is {value}, expected a whole number from 0 to {_MOST_COUNT}")
    return value


@contextmanager
def checking(client: str) -> Iterator[None]:
    """Let whatever goes wrong with one reply cost that reply alone.

    Raises:
        ReplyError: anything was raised, memory that there is not included.
    """
    try:
        yield
    except ReplyError:
        raise
    except Exception as error:  # Nobody can list what a reply may bring about.
        raise ReplyError(client, f"cannot be read: {type(error).__name__}: {error}") from error


def check_records(message: Message, client: str, expected: set[str]) -> None:
    """Check that a reply has these records and no others.

    Raises:
        ReplyError: the client failed, or it has not.
    """
    _records(message, client, expected)


def is_of_gone_node(message: Message) -> bool:
    """Tell whether a reply is what Flower says for a node whose heartbeats have stopped."""
    return message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE


def _no_name(text: object) -> bool:
    return not isinstance(text, str) or name_problem(text) is not None


def _marked(extras: Mapping[str, Value]) -> dict[str, Value]:
    return {EXTRA + key: value for key, value in extras.items()}


def _prefix(client: str, member: str) -> str:
    return "" if member == client else f"{member}/"


def _records(message: Message, client: str, expected: set[str]) -> RecordDict:
    if message.has_error():
        reason = _GONE if is_of_gone_node(message) else message.error.reason or f"error code {message.error.code}"
        raise ReplyError(client, reason, failed=True)
    _same_keys(client, "the records", message.content, expected)
    return message.content


def _record(content: RecordDict, key: str, kind: type[Kind]) -> Kind:
    """Return a record of a message; an empty one where there is none of this kind.

    Flower's own views (``array_records``) leave cycles, in which whole messages stay until Python next looks for them.
    """
    record = content.get(key)
    return record if isinstance(record, kind) else kind()


def _metrics(content: RecordDict, client: str, round: int, at_least: int, sharing: Sharing) -> dict[str, float | int]:
    record = _record(content, METRICS, MetricRecord)
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
    """Return what a client tells of its training: names of the list, values in bounds, none below 0 for rounding."""
    found = {key: float(value) for key, value in metrics.items() if key not in (ROUND, EXAMPLES)}
    least = {"train.loss"} if sharing == "scores" else set()
    allowed = {f"train.{name}" for name in {*names, *TOLD}} if sharing == "scores" else set()
    _same_keys(client, "the metrics", found, (allowed & found.keys()) | least)
    least_value = -_MOST_METRIC if below_zero else 0.0
    for key, value in found.items():
        if not least_value - _ROUNDING <= value <= _MOST_METRIC:
            raise ReplyError(client, f"metric {key} is {value:g}, expected {least_value:g} to {_MOST_METRIC:g}")
    return {key.removeprefix("train."): max(value, least_value) for key, value in found.items()}


def _same_keys(client: str, what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [
            f"{word} {', '.join(keys[:3])}" for word, keys in (("missing", missing), ("unexpected", extra)) if keys
        ]
        raise ReplyError(client, f"keys of {what} do not fit: {'; '.join(parts)}")
