"""The server's state on disk, written after every round as a PEFT folder with one more file.

===================== ==============================================================================================
``adapter_*``         the global adapter in PEFT's format (:mod:`feddat.adapters.peft_form`). Where PEFT has no format
                      for the trained parameters, ``shared.safetensors`` holds them under this package's names.
``state.safetensors`` the state of the aggregation rule, the residual of compression, and the rest as JSON
===================== ==============================================================================================

Each round has its own folder, so tensors and numbers cannot disagree. The folder is written under a temporary name,
flushed to disk, then renamed: a kill at any moment leaves either the old state or the new one. Nothing is pickled. The
newest round's ``adapter_*`` files also appear beside the folders of the rounds, for readers that need only the adapter.
Earlier versions wrote one safetensors file per round.

The state has a seal (:mod:`feddat.seals`) and holds the SHA-256 of the adapter's file, so the server refuses an altered
checkpoint. Checkpoints of earlier versions have no seals; the server accepts them until it seals the first one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from feddat.adapters.peft_form import CONFIG_FILE, WEIGHTS_FILE, PeftForm, save_config
from feddat.files import whole_folder
from feddat.phases import phase
from feddat.seals import BLANK, SEAL, Seal, SealError, file_digest
from feddat.tensorfile import write_tensors

log = logging.getLogger(__name__)

#: Number of rounds to keep. Clients keep their newest two, so the server must not fall back further either.
KEEP = 2
#: Prefix of the rule's tensors in the file; no key of an adapter has a slash.
_RULE = "rule/"
#: Prefix of the residual: what the global adapter lost to compression on its way to the clients.
_RESIDUAL = "residual/"
#: Fields of the state that hold tensors, and the files of a round's folder that are not PEFT's.
_TENSORS = ("shared", "rule", "residual")
_SHARED_FILE, _STATE_FILE = "shared.safetensors", "state.safetensors"
#: Metadata key of the SHA-256 of the global adapter's file.
_DIGEST = "shared_sha256"
#: In the folder of checkpoints: what a run has spent of its clients' privacy budget.
LEDGER_FILE = "privacy.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, was altered, or does not belong to this run; the message names the file."""


@dataclass
class ServerState:
    """Everything the server needs to continue a run.

    Attributes:
        round: number of completed rounds.
        shared: the communicated part of the global adapter.
        rule: state of the aggregation rule: momenta, control variates.
        residual: what the global adapter lost to compression on its way to the clients; see :mod:`feddat.app.wire`.
        bytes: kind of message -> ``up`` (client to server) and ``down`` -> serialised bytes so far.
        seconds: wall time so far, by activity.
        failed: number of errors that clients have reported.
        refused: number of replies that the server has refused.
        start: hash of the folder that the first global adapter was read from; empty: it was initialised at random.
        world: part of the run's inputs -> its hash when this was written; empty in checkpoints of earlier versions.
        trained: client -> last round whose training reached the server. Clients receive it and so notice an old backup.
        changes: inputs that were replaced while the run was stopped, and accepted: after which ``round``, and ``what``.
    """

    shared: dict[str, Tensor]
    round: int = 0
    bytes: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"train": {"up": 0, "down": 0}, "evaluate": {"up": 0, "down": 0}}
    )
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "other": 0.0})
    failed: int = 0
    refused: int = 0
    start: str = ""
    rule: dict[str, Tensor] = field(default_factory=dict)
    residual: dict[str, Tensor] = field(default_factory=dict)
    world: dict[str, str] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: folder of the checkpoints; created with the first one.
        config_hash: hash of the settings that determine the run's numbers; a checkpoint with another hash is refused.
        form: PEFT's format of the global adapter; ``None``: PEFT has none.
        base: name of the base model, for PEFT.
    """

    def __init__(self, folder: Path, config_hash: str, form: PeftForm | None = None, base: str | None = None) -> None:
        self.folder = folder
        self._seal = Seal(folder.parent / ".seal.key")  # outside the folder, so that the folder can be shared
        self.config_hash = config_hash
        self._form = form
        self._base = base

    @phase("checkpoints")
    def save(self, state: ServerState) -> Path:
        """Write the state after a round, and remove all but the newest two.

        Raises:
            CheckpointError: the disk is full or not writable; earlier checkpoints stay.
        """
        names = {key: key if self._form is None else self._form.names[key] for key in state.shared}
        kept = {_RULE: state.rule, _RESIDUAL: state.residual}
        others = {prefix + key: value for prefix, part in kept.items() for key, value in part.items()}
        values = {entry.name: getattr(state, entry.name) for entry in fields(state) if entry.name not in _TENSORS}
        metadata = {
            "state": json.dumps(values),
            "shared": json.dumps(names),
            "keys": json.dumps(list(others)),
            "config_hash": self.config_hash,
            SEAL: BLANK,
        }
        path = self.folder / f"round-{state.round:05d}"
        try:
            for stale in self.folder.glob(".round-*"):  # left by a process that was killed while writing
                shutil.rmtree(stale, ignore_errors=True)
            with whole_folder(path) as folder:
                if names:
                    shared = {names[key]: value for key, value in state.shared.items()}
                    file = _SHARED_FILE if self._form is None else WEIGHTS_FILE
                    write_tensors(folder / file, shared, {"format": "pt"})
                    metadata[_DIGEST] = file_digest(folder / file)
                    if self._form is not None:
                        save_config(folder, self._form.config, self._base)
                self._write(folder / _STATE_FILE, others, metadata, path.name)
            self._show_newest(path)
            for old in self._rounds()[KEEP:]:
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(
                f"checkpoint {path}: {reason}; the run can be resumed from the round before"
            ) from None
        return path

    @phase("checkpoints")
    def latest(self, elsewhere: bool = False) -> ServerState | None:
        """Return the newest readable state; ``None`` if there is none. Skip a damaged one with a warning.

        Args:
            elsewhere: the checkpoints may be a copy from another machine. If their key is not here, do not check seals.

        Raises:
            CheckpointError: the newest was altered or belongs to a run with other settings, or none can be read.
        """
        rounds = self._rounds()
        for path in rounds:
            try:
                state, config_hash = read_state(path)
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                log.warning("checkpoint %s cannot be read (%s); skipping it", path, error)
                continue
            if config_hash != self.config_hash:
                raise CheckpointError(f"checkpoint {path}: written by a run with other settings")
            if elsewhere and not self._seal.exists:
                log.info("checkpoint %s: seal not checked, since its key is not here", path)
                return state
            try:
                if not self._check(path):
                    log.warning("checkpoint %s has no seal: an earlier version wrote it", path)
            except SealError as error:
                raise CheckpointError(
                    f"checkpoint {path}: {error}; restore the original, or remove the checkpoint to continue from the "
                    "round before, or accept it (--accept-changes)"
                ) from None
            return state
        if rounds:
            raise CheckpointError(f"checkpoints {self.folder}: no checkpoint can be read; start a new run")
        return None

    def read_ledger(self) -> dict[str, Any] | None:
        """Return the run's ledger of its privacy budget; ``None`` where there is none.

        Raises:
            CheckpointError: it cannot be read, was altered, or is gone though there are checkpoints.
        """
        path = self.folder / LEDGER_FILE
        try:
            found, _ = self._seal.read_values(path, LEDGER_FILE)
        except FileNotFoundError:
            if self._rounds():
                raise CheckpointError(
                    f"privacy: {path} is gone, though there are checkpoints; what is spent is not known, so start a "
                    "new run"
                ) from None
            return None
        except SealError as error:
            raise CheckpointError(
                f"privacy: {path}: {error}; put back what was there, start a new run, or accept it (--accept-changes)"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"privacy: {path} cannot be read: {type(error).__name__}; what is spent is unknown, so start a new run"
            ) from None
        return found

    def write_ledger(self, values: Mapping[str, Any]) -> None:
        """Write the run's ledger of its privacy budget, sealed, whole or not at all.

        Raises:
            CheckpointError: the disk refuses.
        """
        path = self.folder / LEDGER_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._seal.write_values(path, values, LEDGER_FILE)
        except OSError as error:
            raise CheckpointError(f"privacy: cannot write {path}: {error.strerror or error}") from None

    def _accept_ledger(self) -> bool:
        """Seal the ledger anew where its seal is missing or does not fit; return whether it had to be."""
        path = self.folder / LEDGER_FILE
        if (found := self._seal.values_to_seal(path, LEDGER_FILE)) is None:
            return False
        self.write_ledger(found)
        log.warning("%s was altered or not sealed; it is accepted, and sealed anew", path)
        return True

    def accept(self) -> bool:
        """Seal every altered or unsealed checkpoint as it is now, and log each one.

        Returns:
            Whether there was any.

        Raises:
            CheckpointError: a checkpoint cannot be written.
        """
        found = self._accept_ledger()
        for path in self._rounds():
            try:
                if self._check(path):
                    continue
            except SealError:
                pass
            except (OSError, KeyError, ValueError, SafetensorError):
                continue  # `latest` reports it
            try:
                file = path / _STATE_FILE if path.is_dir() else path
                with safe_open(file, framework="pt") as opened:
                    metadata = opened.metadata() | {SEAL: BLANK}
                    tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                if (weights := _weights_file(path, metadata)) is not None:
                    metadata[_DIGEST] = file_digest(weights)
                self._write(file, tensors, metadata, path.name)
            except (KeyError, ValueError, SafetensorError):
                continue
            except OSError as error:
                raise CheckpointError(f"checkpoint {path}: cannot be sealed: {error.strerror or error}") from None
            log.warning("checkpoint %s was altered or had no seal; accepted as it is, and sealed", path)
            found = True
        return found

    def _check(self, path: Path) -> bool:
        """Check the seal of a round and the hash of the adapter's file; return whether the round has a seal.

        Raises:
            SealError: the checkpoint was altered.
            OSError, SafetensorError, KeyError, ValueError: the checkpoint cannot be read.
        """
        if not self._seal.check(path / _STATE_FILE if path.is_dir() else path, path.name):
            return False
        weights = _weights_file(path, metadata := _metadata(path))
        if weights is not None and file_digest(weights) != metadata.get(_DIGEST):
            raise SealError(f"{weights.name} was altered after it was written")
        return True

    def _write(self, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str], name: str) -> None:
        write_tensors(file, tensors, metadata, lambda temporary: self._seal.put(temporary, name))

    def world(self) -> tuple[int, dict[str, str]]:
        """Return the round and the world of the newest readable state, without reading its tensors.

        Return 0 and an empty dictionary if there is none.
        """
        for path in self._rounds():
            try:
                metadata = _metadata(path)
                if (weights := _weights_file(path, metadata)) is not None:
                    with safe_open(weights, framework="pt"):
                        pass  # opening it shows that it is complete
                state = json.loads(metadata["state"])
                return int(state["round"]), dict(state.get("world", {}))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError):
                continue  # `latest` reports it
        return 0, {}

    def _rounds(self) -> list[Path]:
        """Return the folder (or the file of an earlier version) of every round, newest first."""
        found = [path for path in self.folder.glob("round-*") if path.is_dir() or path.suffix == ".safetensors"]
        return sorted(found, key=lambda path: path.stem, reverse=True)

    def _show_newest(self, newest: Path) -> None:
        """Make the folder of all rounds a PEFT folder too, by linking the newest round's two files into it."""
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if (newest / name).is_file():
                temporary = self.folder / f".{name}.tmp"
                temporary.unlink(missing_ok=True)
                try:
                    os.link(newest / name, temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(newest / name, temporary)
                temporary.replace(self.folder / name)


def read_state(path: Path) -> tuple[ServerState, str]:
    """Return the state in a round's folder (or the file of an earlier version), and the hash of its run's settings.

    Raises:
        OSError, SafetensorError, KeyError, TypeError, ValueError: the state is damaged.
    """
    if not path.is_dir():
        return _read_file(path)
    with safe_open(path / _STATE_FILE, framework="pt") as file:
        metadata = file.metadata()
        others = {key: file.get_tensor(key) for key in json.loads(metadata["keys"])}
    shared = {}
    if (weights := _weights_file(path, metadata)) is not None:
        with safe_open(weights, framework="pt") as file:
            shared = {key: file.get_tensor(name) for key, name in json.loads(metadata["shared"]).items()}
    return _state(shared, others, metadata)


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata in a round's folder, or in the file of an earlier version."""
    with safe_open(path / _STATE_FILE if path.is_dir() else path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def _weights_file(path: Path, metadata: Mapping[str, str]) -> Path | None:
    """Return the file of the global adapter in a round's folder; ``None`` if the folder has none."""
    if not path.is_dir() or not json.loads(metadata["shared"]):
        return None
    weights = path / WEIGHTS_FILE
    return weights if weights.is_file() else path / _SHARED_FILE


def _read_file(path: Path) -> tuple[ServerState, str]:
    """Return the state in a file of an earlier version, and the hash of its run's settings."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in json.loads(metadata["keys"])}
    shared = {key: tensors.pop(key) for key in list(tensors) if not key.startswith((_RULE, _RESIDUAL))}
    return _state(shared, tensors, metadata)


def _state(shared: dict[str, Tensor], others: dict[str, Tensor], metadata: dict[str, str]) -> tuple[ServerState, str]:
    rule, residual = _taken(_RULE, others), _taken(_RESIDUAL, others)
    state = ServerState(shared=shared, rule=rule, residual=residual, **json.loads(metadata["state"]))
    return state, metadata["config_hash"]


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the tensors with a prefix from a dictionary, and return them without the prefix."""
    return {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
