"""The server's state on disk, written after every round: a safetensors file whose JSON metadata holds the rest.

One file per round, so that tensors and numbers cannot disagree; written to a temporary name, flushed to the disk, then
renamed, so that a kill at any moment leaves either the old state or the new one. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddat.phases import phase
from feddat.tensorfile import write_tensors

log = logging.getLogger(__name__)

#: Clients keep their newest two rounds, so the server must not fall back further than that either.
KEEP = 2
#: Before the names of the rule's tensors in the file; no key of an adapter has a slash.
_RULE = "rule/"
#: Before those of what the global adapter lost on its way to the clients.
_RESIDUAL = "residual/"
_TENSORS = ("shared", "rule", "residual")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or does not belong to this run; the message names the file."""


@dataclass
class ServerState:
    """Everything the server must know to go on.

    Attributes:
        round: rounds completed.
        shared: the global adapter, as far as it travels.
        rule: what the rule of aggregation keeps: momenta, control variates.
        residual: what the global adapter lost on its way to the clients, see :mod:`feddat.app.wire`.
        bytes: kind of message -> ``up`` (client to server) and ``down`` -> serialised bytes so far.
        seconds: wall time so far, by what it was spent on.
        failed: errors that clients reported so far.
        refused: replies that did not fit so far.
        world: what the run was made of when this was written -> its hash; empty in checkpoints of earlier versions.
        changes: what was exchanged while the run rested, and accepted: ``round`` after which, and ``what``.
    """

    shared: dict[str, Tensor]
    round: int = 0
    bytes: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"train": {"up": 0, "down": 0}, "evaluate": {"up": 0, "down": 0}}
    )
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "other": 0.0})
    failed: int = 0
    refused: int = 0
    rule: dict[str, Tensor] = field(default_factory=dict)
    residual: dict[str, Tensor] = field(default_factory=dict)
    world: dict[str, str] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        config_hash: of the settings that determine the run's numbers; a checkpoint of another hash is refused.
    """

    def __init__(self, folder: Path, config_hash: str) -> None:
        self.folder = folder
        self.config_hash = config_hash

    @phase("checkpoints")
    def save(self, state: ServerState) -> Path:
        """Write the state after a round and remove those older than the newest two.

        Raises:
            CheckpointError: the disk is full or cannot be written; earlier checkpoints stay.
        """
        parts = {"": state.shared, _RULE: state.rule, _RESIDUAL: state.residual}
        tensors = {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}
        values = {entry.name: getattr(state, entry.name) for entry in fields(state) if entry.name not in _TENSORS}
        metadata = {"state": json.dumps(values), "keys": json.dumps(list(tensors)), "config_hash": self.config_hash}
        path = self.folder / f"round-{state.round:05d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, tensors, metadata)
            for old in self._files()[KEEP:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"checkpoint {path}: {error.strerror}; the run can be resumed from before") from None
        return path

    @phase("checkpoints")
    def latest(self) -> ServerState | None:
        """Return the newest readable state; ``None`` if there is none. A damaged file is skipped with a warning.

        Raises:
            CheckpointError: the newest belongs to a run with other settings, or none can be read.
        """
        files = self._files()
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    metadata = file.metadata()
                    tensors = {key: file.get_tensor(key) for key in json.loads(metadata["keys"])}
                rule, residual = _taken(_RULE, tensors), _taken(_RESIDUAL, tensors)
                state = ServerState(shared=tensors, rule=rule, residual=residual, **json.loads(metadata["state"]))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                log.warning("checkpoint %s cannot be read (%s) and is skipped", path, error)
                continue
            if metadata["config_hash"] != self.config_hash:
                raise CheckpointError(f"checkpoint {path}: written by a run with other settings")
            return state
        if files:
            raise CheckpointError(f"checkpoints {self.folder}: no checkpoint can be read; start a new run")
        return None

    def world(self) -> tuple[int, dict[str, str]]:
        """Return the round and the world of the newest state that :meth:`latest` can read; 0 and none: there is none.

        Its tensors are not read.
        """
        for path in self._files():
            try:
                with safe_open(path, framework="pt") as file:
                    state = json.loads(file.metadata()["state"])
                return int(state["round"]), dict(state.get("world", {}))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError):
                continue  # `latest` says so
        return 0, {}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("round-*.safetensors"), reverse=True)


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the tensors under a prefix out of a dictionary."""
    return {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
