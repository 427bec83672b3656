"""Read the folder of a run or of a comparison for a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.example import DataError
from feddat.json_lines import LineError, read


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one run.

    Attributes:
        path: the folder.
        summary: ``summary.json``.
        metrics: the lines of ``metrics.jsonl``; empty if the file is missing.
        predictions: the records of ``predictions.json``; empty if the file is missing.
        config: ``config.yaml`` as text; empty if the file is missing.
    """

    path: Path
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    predictions: Sequence[Mapping[str, Any]]
    config: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a run (one run) or of a comparison (its runs, grouped by method, seeds ascending).

    Attributes:
        path: the folder.
        runs: the runs in it.
        comparison: whether it is the folder of a comparison.
        tuning: settings that a search chose for the comparison's methods, with its scores (``tuning.json``).
    """

    path: Path
    runs: tuple[Run, ...]
    comparison: bool
    tuning: Mapping[str, Any] | None = None

    @property
    def summaries(self) -> list[Mapping[str, Any]]:
        """The summaries of all runs."""
        return [run.summary for run in self.runs]


def read_folder(path: Path | str) -> Folder:
    """Read a run folder (with ``summary.json``) or a comparison folder (with ``comparison.json``).

    Raises:
        DataError: the folder is neither, or a file in it cannot be read; the message names it.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such run folder")
    if (path / "comparison.json").is_file():
        content = _json(path / "comparison.json")
        listed = _summaries(path / "comparison.json", content)
        order = {method: place for place, method in reversed(list(enumerate(run["method"] for run in listed)))}
        folders = sorted(file.parent for file in path.glob("*/summary.json"))
        runs = [_read_run(folder) for folder in folders]
        # Runs whose folders are elsewhere still appear in the tables, through their summaries.
        here = {(run.summary["method"], run.summary["seed"]) for run in runs}
        runs += [Run(path, s, (), (), "") for s in listed if (s["method"], s.get("seed")) not in here]
        runs.sort(key=lambda run: (order.get(run.summary["method"], len(order)), run.summary["seed"]))
        return Folder(path, tuple(runs), True, content.get("tuning") if isinstance(content, dict) else None)
    if (path / "summary.json").is_file():
        return Folder(path, (_read_run(path),), comparison=False)
    raise _nothing_in(path)


def read_result(path: Path) -> Any:
    """Return the JSON result in the folder of a suite, a study, newcomers, a comparison or a run.

    Raises:
        DataError: the folder is none of these, or its file cannot be read; the message names it.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such run folder")
    for name in ("suite.json", "study.json", "newcomers.json", "comparison.json", "summary.json"):
        if (path / name).is_file():
            return _json(path / name)
    raise _nothing_in(path)


def read_keys(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return a JSON object that has at least ``keys``.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks a key; the message names it.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in found]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    if missing:
        raise DataError(f"{file}: key {missing[0]!r} is missing")
    return found


def _nothing_in(path: Path) -> DataError:
    hint = "; the run has not finished" if (path / "config.yaml").is_file() else ""
    return DataError(f"{path}: neither summary.json nor comparison.json in this folder{hint}")


def _summaries(file: Path, content: Any) -> list[Mapping[str, Any]]:
    runs = content.get("runs") if isinstance(content, dict) else content
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) and "method" in run for run in runs):
        raise DataError(f"{file}: expected a list of run summaries")
    return runs


def _read_run(path: Path) -> Run:
    summary = _json(path / "summary.json")
    for key in ("method", "clients", "mean", "rounds", "seed"):
        if not isinstance(summary, dict) or key not in summary:
            raise DataError(f"{path / 'summary.json'}: key {key!r} is missing")
    try:
        metrics = read(file) if (file := path / "metrics.jsonl").is_file() else []
    except LineError as error:
        raise DataError(str(error)) from None
    predictions = _json(path / "predictions.json") if (path / "predictions.json").is_file() else []
    config = (path / "config.yaml").read_text(encoding="utf-8") if (path / "config.yaml").is_file() else ""
    return Run(path, summary, metrics, predictions, config)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
