"""Read the folder of a run or of a comparison for a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.example import DataError
from feddat.json_lines import LineError, read

#: Kind of a folder -> the file that makes it one; the first counts if there are several.
KINDS = {
    "suite": "suite.json",
    "study": "study.json",
    "newcomers": "newcomers.json",
    "comparison": "comparison.json",
    "run": "summary.json",
}
#: Keys of every run's summary.
SUMMARY_KEYS = ("method", "clients", "mean", "rounds", "seed")


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
    if (file := path / KINDS["comparison"]).is_file():
        content = read_json(file)
        listed = check_summaries(content.get("runs") if isinstance(content, dict) else content, file)
        tuning = content.get("tuning") if isinstance(content, dict) else None
        if tuning is not None:
            check_tuning(tuning, f"{file}: tuning")
        order = {method: place for place, method in reversed(list(enumerate(run["method"] for run in listed)))}
        folders = sorted(file.parent for file in path.glob("*/summary.json"))
        runs = [_read_run(folder) for folder in folders]
        # Runs whose folders are elsewhere still appear in the tables, through their summaries.
        here = {(run.summary["method"], run.summary["seed"]) for run in runs}
        runs += [Run(path, s, (), (), "") for s in listed if (s["method"], s["seed"]) not in here]
        runs.sort(key=lambda run: (order.get(run.summary["method"], len(order)), run.summary["seed"]))
        return Folder(path, tuple(runs), True, tuning)
    if (path / KINDS["run"]).is_file():
        return Folder(path, (_read_run(path),), comparison=False)
    raise _nothing_in(path)


def kind_of(path: Path) -> str:
    """Return what a folder contains: one of :data:`KINDS`.

    Raises:
        DataError: none of them; the message names the folder.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such run folder")
    kind = next((kind for kind, name in KINDS.items() if (path / name).is_file()), None)
    if kind is None:
        raise _nothing_in(path)
    return kind


def read_result(path: Path) -> Any:
    """Return the JSON result in a folder, whatever its kind.

    Raises:
        DataError: see :func:`kind_of`; or its file cannot be read.
    """
    return read_json(path / KINDS[kind_of(path)])


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: the file cannot be read or is not JSON; the message names it.
    """
    try:
        return json.loads(_text(file))
    except (json.JSONDecodeError, RecursionError) as error:  # the latter for brackets nested too deeply
        raise DataError(f"{file}: not JSON: {error}") from None


def read_keys(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return a JSON object that has at least ``keys``.

    Raises:
        DataError: the file cannot be read, is no JSON object, or lacks a key; the message names it.
    """
    return _with_keys(read_json(file), keys, str(file))


def read_summary(file: Path) -> dict[str, Any]:
    """Return the content of a run's ``summary.json``.

    Raises:
        DataError: the file cannot be read, or is no summary of a run; the message names it.
    """
    return check_summary(read_json(file), str(file))


def check_summaries(values: Any, file: Path, keys: Sequence[str] = SUMMARY_KEYS) -> list[Mapping[str, Any]]:
    """Return a value from the key ``runs`` of a file if it is a list of summaries, of at least one run.

    Raises:
        DataError: it is not; see :func:`check_summary`.
    """
    if not isinstance(values, list) or not values:
        raise DataError(f"{file}: expected a list of run summaries")
    return [check_summary(value, f"{file}: runs[{place}]", keys) for place, value in enumerate(values)]


def check_summary(value: Any, where: str, keys: Sequence[str] = SUMMARY_KEYS) -> dict[str, Any]:
    """Return a value if it is the summary of a run: an object with ``keys``, each of the right type.

    Raises:
        DataError: it is not; the message begins with ``where`` and names the key.
    """
    summary = _with_keys(value, keys, where)
    for key, (wanted, fits) in _HOLDS.items():
        if key in summary and not fits(summary[key]):
            raise DataError(f"{where}: {key}: expected {wanted}, got {json.dumps(summary[key])[:80]}")
    return summary


def check_records(values: Any, keys: Sequence[str], where: str) -> list[Mapping[str, Any]]:
    """Return a value if it is a list of objects that all have at least ``keys``.

    Raises:
        DataError: it is not; the message begins with ``where``.
    """
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list")
    return [_with_keys(value, keys, f"{where}[{place}]") for place, value in enumerate(values)]


def check_tuning(value: Any, where: str) -> None:
    """Raise if a value is not the result of a search for settings (``tuning.json``).

    Raises:
        DataError: it is not; the message begins with ``where``.
    """
    tuning = _with_keys(value, ("keys", "scores", "best"), where)
    if not isinstance(keys := tuning["keys"], list) or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{where}: keys: expected a list of texts")
    if not _are_scores(tuning["scores"]):
        raise DataError(f"{where}: scores: expected a number for each method and point")
    if not isinstance(best := tuning["best"], dict) or not all(isinstance(point, dict) for point in best.values()):
        raise DataError(f"{where}: best: expected values for each method and key")
    if lacking := [method for method in tuning["scores"] if method not in best]:
        raise DataError(f"{where}: best: no values for {lacking[0]}")


def is_number(value: Any) -> bool:
    """Return whether a value from JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_scores(value: Any) -> bool:
    """Return whether a value is an object of objects that each have at least one number, and nothing else."""
    return isinstance(value, dict) and all(
        isinstance(scores, dict) and scores and all(map(is_number, scores.values())) for scores in value.values()
    )


#: Key of a summary -> what it holds in words, and the check of a value. Clients without scores are left out of
#: ``clients``; if all are, there is no ``mean``.
_HOLDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "method": ("text", lambda value: isinstance(value, str)),
    "seed": ("a whole number", _is_whole),
    "clients": ("scores by client and route", _are_scores),
    "mean": ("a number", lambda value: value is None or is_number(value)),
    "rounds": ("a whole number", _is_whole),
    **{
        key: ("an object", lambda value: isinstance(value, dict))
        for key in ("parameters", "bytes", "world", "kinds", "data")
    },
    **{key: ("a list", lambda value: isinstance(value, list)) for key in ("missing", "not_shared", "changes")},
}


def _with_keys(value: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object with the keys {', '.join(keys)}")
    if missing := [key for key in keys if key not in value]:
        raise DataError(f"{where}: key {missing[0]!r} is missing")
    return value


def _nothing_in(path: Path) -> DataError:
    hint = "; the run has not finished" if (path / "config.yaml").is_file() else ""
    return DataError(f"{path}: neither summary.json nor comparison.json in this folder{hint}")


def _read_run(path: Path) -> Run:
    summary = read_summary(path / "summary.json")
    try:
        metrics = read(file) if (file := path / "metrics.jsonl").is_file() else []
    except LineError as error:
        raise DataError(str(error)) from None
    scores = [line for line in metrics if "score" in line]
    check_records(scores, ("round", "client", "route"), f"{file}: scores")
    predictions: Sequence[Mapping[str, Any]] = []
    if (file := path / "predictions.json").is_file():
        keys = ("client", "id", "images", "question", "truth", "top", "score")
        predictions = check_records(read_json(file), keys, str(file))
    config = _text(file) if (file := path / "config.yaml").is_file() else ""
    return Run(path, summary, metrics, predictions, config)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text") from None
