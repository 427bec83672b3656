"""Server to client: what the server asks for, written by the server and read by the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from feddat.app import versions
from feddat.app import wire as wires
from feddat.app.arrays import read_array
from feddat.app.messages.records import (
    CONFIG,
    DELTA,
    EXTRA,
    FORMAT,
    LEDGER,
    ROUND,
    SHARED,
    InstructionError,
    marked,
    record_of,
)
from feddat.app.messages.tensors import as_tensor, to_arrays, to_tensors
from feddat.config import WireConfig
from feddat.phases import phase

#: Keys of an instruction and their types. None has a default: the other side's default could differ.
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


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the server asks of a client.

    Attributes:
        run: id of the run, the same when it is resumed.
        round, rounds, final, split: the run's progress, and what the client is to do.
        model: hash of each part of the server's model, by part.
        shared: the shared part, read-only; ``None`` if there is none.
        extras: the extra arrays.
        wire: how the shared part was packed, and how the client packs its own.
        ledger: last round for which the server has this client's training; 0: none.
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


def query_content(run: str) -> RecordDict:
    """Return the content of a query, which asks a node who it is in a run."""
    return RecordDict({CONFIG: ConfigRecord({"run": run, **versions.told()})})


def instruction_config(
    round: int,
    rounds: int,
    split: str = "train",
    final: bool = False,
    run: str = "",
    model: Mapping[str, str] | None = None,
) -> ConfigRecord:
    """Return the settings part of an instruction; ``final`` marks the evaluation whose scores are the run's result."""
    identity = [f"{part}={value}" for part, value in (model or {}).items()]
    asked: dict[str, Any] = {ROUND: round, "rounds": rounds, "split": split, "final": final, "run": run}
    usual = WireConfig()
    asked |= {"model": identity, LEDGER: 0, FORMAT: usual.format, DELTA: usual.delta}
    return ConfigRecord(asked | versions.told())


def addressed(content: RecordDict, ledger: int) -> RecordDict:
    """Return an instruction's content for one client, whose last known training was in round ``ledger``."""
    config = ConfigRecord({**record_of(content, CONFIG, ConfigRecord), LEDGER: ledger})
    return RecordDict({key: config if key == CONFIG else record for key, record in content.items()})


@phase("messages")
def instruction_content(
    arrays: ArrayRecord,
    config: ConfigRecord,
    extras: Mapping[str, Tensor] | None = None,
    wire: WireConfig = WireConfig(),
) -> RecordDict:
    """Return an instruction's content: the shared part and the extra arrays, each only if there is one.

    Args:
        arrays: the shared part, float32; as :func:`.wire.settle` returns it where ``wire`` is lossy.
        config: see :func:`instruction_config`.
        extras: the extra arrays.
        wire: how the shared part is packed, both here and in the reply.
    """
    if wire != WireConfig():
        config = ConfigRecord({**config, FORMAT: wire.format, DELTA: wire.delta})
        arrays = to_arrays(wires.pack(to_tensors(arrays), wire)[0])
    arrays = ArrayRecord({**arrays, **to_arrays(marked(extras or {}))})
    return RecordDict({SHARED: arrays, CONFIG: config} if arrays else {CONFIG: config})


def read_run(message: Message) -> str:
    """Return the id of the run to which a message of any kind belongs."""
    return str(record_of(message.content, CONFIG, ConfigRecord)["run"])


@phase("messages")
def read_instruction(message: Message) -> Instruction:
    """Read a train or evaluate message.

    Raises:
        InstructionError: a key is missing, or its value has the wrong type.
    """
    content = message.content
    config = record_of(content, CONFIG, ConfigRecord)
    check_instructed(config)
    wire = WireConfig.model_validate({"format": config[FORMAT], "delta": config[DELTA]})
    arrays = {key: read_array(array) for key, array in record_of(content, SHARED, ArrayRecord).items()}
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


@phase("messages")
def hash_of(ask: Instruction) -> bytes:
    """Return a hash of all that a client's training depends on in an instruction, 32 bytes.

    It covers the arrays as the client decodes them: names, shapes and numbers. So it is the same for all clients of a
    round, whatever the wire format, and for one that missed earlier rounds. Left out is ``ledger``, which differs
    between clients and only leads to a warning.
    """
    told = {key: getattr(ask, key) for key in ("run", "round", "rounds", "final", "split", "model")}
    told |= {"format": ask.wire.format, "delta": ask.wire.delta}
    arrays = [("shared", key, value) for key, value in sorted((ask.shared or {}).items())]
    arrays += [("extra", key, value) for key, value in sorted(ask.extras.items())]
    told["arrays"] = [(kind, key, str(value.dtype), list(value.shape)) for kind, key, value in arrays]
    text = json.dumps(told, sort_keys=True).encode()
    found = sha256(b"feddat received\0" + len(text).to_bytes(8) + text)
    for _, _, value in arrays:
        numbers = value.numpy()
        found.update(np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).data)
    return found.digest()


def check_instructed(config: Mapping[str, Any]) -> None:
    """Check that an instruction has every key; none is filled from this side's own defaults.

    Raises:
        InstructionError: names a key that is missing, or whose value has the wrong type.
    """
    for key, kind in INSTRUCTED.items():
        if type(config.get(key)) is not kind:
            raise InstructionError(f"the instruction's {key} is missing or not of type {kind.__name__}")


def check_versions(message: Message) -> None:
    """Check that the server that sent a message has this client's version.

    Raises:
        VersionError: it has another version.
    """
    config = record_of(message.content, CONFIG, ConfigRecord) if message.has_content() else {}
    versions.check(config, "the server", "this client")
