"""A run's folder: who may write into it, the settings it belongs to, and the lines of its metrics.

Files are written whole or not at all; the one that grows, ``metrics.jsonl``, is cut back to the last checkpoint when a
run is resumed, so that a kill at any moment costs at most the round it fell into.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from feddat.config import RunConfig
from feddat.files import locked, write_atomic, write_json

#: Settings that say where a run is written or computed, or that check what is loaded, not what comes out.
PLACE_KEYS = frozenset({"name", "runs_dir", "data_cache", "device", "threads", "log", "runtime", "model_weights"})
#: Settings of ``server`` that say how long it waits for clients, and how much it takes on: they may change when a run
#: is resumed.
PATIENCE_KEYS = frozenset({"min_clients", "wait", "deadline", "max_message"})


class ExperimentError(RuntimeError):
    """An experiment cannot start, go on or be read; the message names the folder, client or key."""


class RunFolder:
    """The files of one run, below ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.log_file = path / "log.jsonl"
        self.summary_file = path / "summary.json"
        self.report_file = path / "report.html"
        self.predictions_file = path / "predictions.json"
        self.pictures = path / "predictions"
        self.checkpoints = path / "checkpoints"
        self.clients = path / "clients"
        self.run_id_file = path / "run-id"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in this folder; the system frees it when this one dies, however it dies.

        Raises:
            ExperimentError: another process runs here, or the folder cannot be made.
        """
        with exclusive(self.path, f"run folder {self.path}: another process is running in it"):
            yield

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Raise if a run may not begin or go on here; change nothing.

        Raises:
            ExperimentError: the folder holds another run, or something else, and nothing says what to do with it.
        """
        if not self._entries():
            return
        if not self.config_file.is_file():
            raise ExperimentError(f"folder {self.path}: not empty and not a run folder; choose another name")
        if not resume and not overwrite:
            state = "a finished run" if self.summary_file.is_file() else "an unfinished run"
            raise ExperimentError(
                f"run folder {self.path} holds {state}; resume it (--resume), replace it (--overwrite) or choose "
                "another name"
            )
        if not overwrite and (keys := differing_keys(here := self.read_config(), config)):
            models = f" (model {here.model} there, {config.model} now)" if "model" in keys else ""
            raise ExperimentError(f"run folder {self.path} belongs to other settings: {', '.join(keys)} differ{models}")

    def begin(self, config: RunConfig, *, overwrite: bool) -> None:
        """Write the configuration; with ``overwrite``, remove the run that was here before.

        Raises:
            ExperimentError: the disk refuses.
        """
        with disk_errors(self.path):
            if overwrite:
                # The configuration goes last: a half-emptied folder is still known for what it is.
                for entry in sorted(self._entries(), key=lambda entry: entry == self.config_file):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            write_atomic(self.config_file, config.to_yaml().encode())
            if not self.run_id_file.is_file():
                write_atomic(self.run_id_file, secrets.token_hex(8).encode())

    def run_id(self) -> str:
        """Return the run's id: it stays when the run is resumed, and is another when the run is replaced."""
        with disk_errors(self.run_id_file):
            return self.run_id_file.read_text(encoding="utf-8").strip()

    def _entries(self) -> list[Path]:
        return [entry for entry in self.path.iterdir() if entry.name not in (".lock", "logs")]

    def read_config(self) -> RunConfig:
        """Return the configuration that the run was started with.

        Raises:
            ExperimentError: the file is missing or unusable.
        """
        try:
            return RunConfig.model_validate(yaml.safe_load(self.config_file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ExperimentError(f"{self.config_file}: {error.strerror}; not a run folder") from None
        except (yaml.YAMLError, ValidationError) as error:
            raise ExperimentError(f"{self.config_file}: {' '.join(str(error).split())}") from None

    def summary(self) -> dict[str, Any] | None:
        """Return ``summary.json``; ``None`` where the run has not finished."""
        if not self.summary_file.is_file():
            return None
        content: dict[str, Any] = json.loads(self.summary_file.read_text(encoding="utf-8"))
        return content

    def write_json(self, path: Path, value: Any) -> None:
        """Write JSON atomically, into a folder that is made where it does not exist.

        Raises:
            ExperimentError: the disk refuses.
        """
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, value)

    # The metrics: one JSON object a line.

    def cut_metrics(self, last_round: int) -> None:
        """Drop lines of rounds after ``last_round``, and a last line torn by a kill."""
        if self.metrics_file.exists():
            kept = [line for line in self.read_metrics() if line["round"] <= last_round]
            with disk_errors(self.metrics_file):
                write_atomic(self.metrics_file, "".join(map(_line, kept)).encode())

    def append_metrics(self, lines: list[dict[str, Any]], *, sync: bool = False) -> None:
        """Append lines; with ``sync``, return when they are on the disk."""
        with disk_errors(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, lines)))
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines that are whole.

        Raises:
            ExperimentError: a line other than the last is not JSON.
        """
        if not self.metrics_file.exists():
            return []
        raw = self.metrics_file.read_bytes().split(b"\n")
        # What follows the last line feed is empty, or a line that a kill tore.
        lines = []
        for number, text in enumerate(raw[:-1], start=1):
            try:
                lines.append(json.loads(text))
            except ValueError:
                raise ExperimentError(f"{self.metrics_file}, line {number}: not JSON") from None
        return lines


@contextmanager
def exclusive(path: Path, in_use: str) -> Iterator[None]:
    """Keep other processes from working in a folder, which is made where it does not exist.

    Raises:
        ExperimentError: another process works here (``in_use`` says so), or the folder cannot be made.
    """
    with ExitStack() as stack:
        with disk_errors(path):
            try:
                stack.enter_context(locked(path))
            except BlockingIOError:
                raise ExperimentError(in_use) from None
        yield


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about files into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise ExperimentError(
            f"{error.filename or path}: {error.strerror}; what is on the disk stays, and the run can be resumed"
        ) from error


def local_steps(lines: Sequence[Mapping[str, Any]], until: int | None = None) -> float:
    """Return the batches that a participant took up to a round, on average over those who trained, from metrics."""
    trained = [line for line in lines if line.get("split") == "train" and (until is None or line["round"] <= until)]
    owners = {line["client"] for line in trained}
    steps = sum(float(line["metrics"].get("steps", 0)) for line in trained)
    return steps / max(1, len(owners))


def passes(lines: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """Return the views that went ``forward`` and ``backward`` through the model in training, of all clients together.

    ``None`` where a client keeps that to itself.
    """
    trained = [line["metrics"] for line in lines if line.get("split") == "train"]
    if not trained or not all({"forward", "backward"} <= metrics.keys() for metrics in trained):
        return None
    return {way: round(sum(metrics[way] for metrics in trained)) for way in ("forward", "backward")}


def differing_keys(one: RunConfig, other: RunConfig) -> list[str]:
    """Return the dotted keys, of those that determine a run's numbers, in which two configurations differ."""
    left, right = _flat(_deciding(one)), _flat(_deciding(other))
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def config_hash(config: RunConfig) -> str:
    """Return a hash of everything in the configuration that determines the run's numbers.

    Keys at their defaults are left out, so that a run can be resumed by a version with further keys. (A default that
    has changed since shows in the run's ``config.yaml``, which has them all.)
    """
    text = json.dumps(deciding_settings(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def deciding_settings(config: RunConfig) -> dict[str, Any]:
    """Return what determines the run's numbers and is not at its default."""
    return _deciding(config, exclude_defaults=True)


def _deciding(config: RunConfig, exclude_defaults: bool = False) -> dict[str, Any]:
    exclude: dict[str, Any] = dict.fromkeys(PLACE_KEYS, True) | {"server": set(PATIENCE_KEYS)}
    return config.model_dump(mode="json", exclude=exclude, exclude_defaults=exclude_defaults)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
