"""A record of finished runs: one JSON line each, in a file that can be committed.

A grid takes hours, and run folders stay on the machine that made them. A comparison with a record does not compute
again what has a line there, whichever machine made it, and makes its tables from the lines. A line is found by the
hash of everything in the configuration that determines a run's numbers.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from feddat.config import RunConfig
from feddat.experiment.folder import ExperimentError, RunFolder, config_hash, deciding_settings, disk_errors
from feddat.files import locked

#: Keys of a summary that say nothing in a record.
_LEFT_OUT = ("missing", "not_shared", "seconds_in")
#: Decimal places of what is measured.
_DIGITS = 4


class RunRecord:
    """The lines of one file; a file that does not exist has none.

    Args:
        path: of the file.

    Raises:
        ExperimentError: the file cannot be read, or a line is not one of a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        with disk_errors(path):
            text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                content = json.loads(line)
                self._lines[content["run"]] = {key: content[key] for key in ("settings", "summary", "curve")}
            except (ValueError, KeyError, TypeError):
                raise ExperimentError(f"{path}, line {number}: not a line of a record of runs") from None

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._lines)

    def summary(self, config: RunConfig) -> dict[str, Any] | None:
        """Return the summary of a run that is in the record; ``None`` where it is not."""
        line = self._lines.get(config_hash(config))
        return None if line is None else dict(line["summary"])

    def summaries(self) -> list[dict[str, Any]]:
        """Return the summaries of all runs, in the order of the file."""
        return [dict(line["summary"]) for line in self._lines.values()]

    def curve(self, config: RunConfig) -> list[dict[str, Any]]:
        """Return what a run measured on its way (:func:`curve_of`); empty where it is not in the record."""
        line = self._lines.get(config_hash(config))
        return [] if line is None else list(line["curve"])

    def add(self, config: RunConfig, summary: Mapping[str, Any], folder: RunFolder) -> None:
        """Append a finished run's line, if the file has none of it.

        Raises:
            ExperimentError: the disk refuses.
        """
        key = config_hash(config)
        if key in self._lines:
            return
        line = {
            "settings": deciding_settings(config),
            "summary": {name: _short(value) for name, value in summary.items() if name not in _LEFT_OUT},
            "curve": curve_of(folder.read_metrics()),
        }
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.parent), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": key, **line}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._lines[key] = line


def curve_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a run's way in short, from the lines of its metrics: one entry per round that was evaluated.

    An entry has ``round``; ``train``: the clients' mean losses since the entry before; ``updates``: norm and agreement
    of their updates, likewise; and by split and route the mean score over clients.
    """
    evaluated = sorted({line["round"] for line in lines if "score" in line})
    entries: list[dict[str, Any]] = []
    before = 0
    for round in evaluated:
        train: dict[str, list[float]] = defaultdict(list)
        updates: dict[str, list[float]] = defaultdict(list)
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for line in lines:
            if before < line["round"] <= round:
                _gather(train, line.get("metrics", {}))
                _gather(updates, line.get("updates", {}))
            if line["round"] == round and "score" in line:
                scores[line["split"]][line["route"]].append(line["score"])
        entry: dict[str, Any] = {"round": round, "train": _means(train), "updates": _means(updates)}
        entries.append(entry | {split: _means(routes) for split, routes in scores.items()})
        before = round
    return entries


def _gather(found: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if name not in ("examples", "seconds"):
            found[name].append(value)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(fmean(found), _DIGITS) for name, found in values.items()}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    return value
