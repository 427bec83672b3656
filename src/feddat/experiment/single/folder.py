"""The folder of a run: its lock, its settings, and the lines of its metrics.

Files are written atomically. Only ``metrics.jsonl`` grows; it is cut back to the last checkpoint when a run is resumed.
A kill at any moment therefore costs at most the current round.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig
from feddat.config.run import validated
from feddat.example import DataError
from feddat.experiment.single.deciding import differing_keys
from feddat.files import locked, write_atomic, write_json
from feddat.json_lines import LineError, append, read
from feddat.report.folder import read_summary
from feddat.yaml_files import YamlError, read_yaml


class ExperimentError(RuntimeError):
    """An experiment cannot start, continue or be read; the message names the folder, client or key."""


class RunFolder:
    """The files of one run, in the folder ``path``."""

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
        """Lock the folder against other processes; the system releases the lock when this process ends in any way.

        Raises:
            ExperimentError: another process runs in the folder, or the folder cannot be created.
        """
        with exclusive(self.path, f"run folder {self.path}: another process is running in it"):
            yield

    def check(self, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
        """Raise if a run may not start or resume in this folder; change nothing.

        Raises:
            ExperimentError: the folder contains another run or other files, or a run that is neither to be resumed nor
                replaced.
        """
        if not self._entries():
            return
        if not self.config_file.is_file():
            raise ExperimentError(f"folder {self.path}: not empty and not a run folder; choose another name")
        if not resume and not overwrite:
            state = "a finished run" if self.summary_file.is_file() else "an unfinished run"
            raise ExperimentError(
                f"run folder {self.path} contains {state}; resume it (--resume), replace it (--overwrite) or choose "
                "another name"
            )
        if not overwrite and (keys := differing_keys(here := self.read_config(), config)):
            models = f" (model {here.model} there, {config.model} now)" if "model" in keys else ""
            raise ExperimentError(
                f"run folder {self.path} belongs to other settings: {', '.join(keys)} differ{models}; replace it "
                "(--overwrite) or choose another name"
            )

    def begin(self, config: RunConfig, *, overwrite: bool) -> None:
        """Write the configuration; with ``overwrite``, first remove the previous run.

        Raises:
            ExperimentError: a file cannot be written.
        """
        with disk_errors(self.path):
            if overwrite:
                # The configuration is removed last, so that a half-emptied folder is still recognised as a run folder.
                for entry in sorted(self._entries(), key=lambda entry: entry == self.config_file):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            write_atomic(self.config_file, config.to_yaml().encode())
            if not self.run_id_file.is_file():
                write_atomic(self.run_id_file, secrets.token_hex(8).encode())

    def run_id(self) -> str:
        """Return the run's id, which is kept when the run is resumed and changes when it is replaced.

        Raises:
            ExperimentError: the file cannot be read.
        """
        with disk_errors(self.run_id_file):
            content = self.run_id_file.read_bytes()
        try:
            return content.decode().strip()
        except UnicodeDecodeError:
            raise ExperimentError(f"{self.run_id_file}: not the id of a run") from None

    def _entries(self) -> list[Path]:
        return [entry for entry in self.path.iterdir() if entry.name not in (".lock", "logs")]

    def read_config(self) -> RunConfig:
        """Return the configuration with which the run was started.

        Raises:
            ExperimentError: the file is missing or unusable.
        """
        try:
            raw = read_yaml(self.config_file)
        except OSError as error:
            raise ExperimentError(f"{self.config_file}: {error.strerror}; not a run folder") from None
        except YamlError as error:
            raise ExperimentError(f"{self.config_file}: {error}") from None
        if not isinstance(raw, dict):
            raise ExperimentError(f"{self.config_file}: expected keys and values at the top level")
        try:
            return validated(raw, self.config_file)
        except ConfigError as error:
            raise ExperimentError(str(error)) from None

    def summary(self) -> dict[str, Any] | None:
        """Return the content of ``summary.json``, or ``None`` if the run has not finished.

        Raises:
            ExperimentError: the file cannot be read, or is not the summary of a run.
        """
        if not self.summary_file.is_file():
            return None
        try:
            return read_summary(self.summary_file)
        except DataError as error:
            raise ExperimentError(str(error)) from None

    def write_json(self, path: Path, value: Any) -> None:
        """Write JSON atomically; create the folder if it does not exist.

        Raises:
            ExperimentError: a file cannot be written.
        """
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, value)

    # The metrics: one JSON object per line.

    def cut_metrics(self, last_round: int) -> None:
        """Remove the lines of rounds after ``last_round``, and an incomplete last line that a kill left."""
        if self.metrics_file.exists():
            kept = [line for line in self.read_metrics() if line["round"] <= last_round]
            with disk_errors(self.metrics_file):
                write_atomic(self.metrics_file, "".join(map(_line, kept)).encode())

    def append_metrics(self, lines: list[dict[str, Any]], *, sync: bool = False) -> None:
        """Append lines; with ``sync``, return when they are on the disk."""
        with disk_errors(self.metrics_file):
            append(self.metrics_file, lines, whole=True, sync=sync)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the complete lines.

        Raises:
            ExperimentError: a line other than the last is not JSON.
        """
        if not self.metrics_file.exists():
            return []
        try:
            return read(self.metrics_file)
        except LineError as error:
            raise ExperimentError(str(error)) from None


@contextmanager
def exclusive(path: Path, in_use: str) -> Iterator[None]:
    """Lock a folder against other processes; create it if it does not exist.

    Raises:
        ExperimentError: another process works in the folder (with the message ``in_use``), or it cannot be created.
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
    """Turn an ``OSError`` into an :class:`ExperimentError` of one line that names the path."""
    try:
        yield
    except OSError as error:
        raise ExperimentError(
            f"{error.filename or path}: {error.strerror}; the files written so far are kept, and the run can be resumed"
        ) from error


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
