"""A record of finished runs: one JSON line each, in a file that can be committed.

A grid takes hours, and run folders stay on the machine that made them. A comparison with a record does not recompute
runs that have a line there, whichever machine made them, and makes its tables from the lines. The key of a line is the
hash of all settings that determine a run's numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from feddat.config import AlgorithmConfig, RunConfig
from feddat.experiment.single.deciding import config_hash, deciding_settings
from feddat.experiment.single.folder import RunFolder, disk_errors
from feddat.experiment.single.methods import resolve
from feddat.files import locked
from feddat.json_lines import append
from feddat.report.record import read_lines

#: Keys of a summary that a record omits.
_LEFT_OUT = ("seconds_in",)
#: Decimal places of measurements.
_DIGITS = 4


class RunRecord:
    """The lines of one file, and of others that are only read; a missing file has no lines.

    Args:
        path: file to which finished runs are added.
        others: files that are only read.

    Raises:
        DataError: a file cannot be read, or a line is not a line of a record.
    """

    def __init__(self, path: Path, others: Sequence[Path] = ()) -> None:
        self.path = path
        self._lines = {line["run"]: line for file in (*others, path) if file.exists() for line in read_lines(file)}

    def summary(self, config: RunConfig) -> dict[str, Any] | None:
        """Return the summary of a run in the record, or ``None`` if the run is not there."""
        line = self._lines.get(config_hash(config))
        return None if line is None else dict(line["summary"])

    def measured(self, config: RunConfig) -> dict[str, float]:
        """Return measurements that help to explain a run's scores; empty if the run is not in the record.

        ``agreement`` and ``norm`` of the clients' updates, and ``distilled``, the share of distillation in FedDAT's
        loss, are means over the rounds since the second-to-last evaluation. ``train ROUTE`` and ``validation ROUTE``
        are the last scores, in percent.
        """
        line = self._lines.get(config_hash(config))
        if line is None or not line["curve"]:
            return {}
        last = line["curve"][-1]
        found = dict(last["updates"])
        if (share := _distilled(last["train"], resolve(config).algorithm)) is not None:
            found["distilled"] = share
        scored = {"train": line["summary"].get("training_scores", {}), "validation": last.get("validation", {})}
        for split, scores in scored.items():
            found |= {f"{split} {route}": score for route, score in scores.items()}
        return found

    def add(self, config: RunConfig, summary: Mapping[str, Any], folder: RunFolder) -> None:
        """Append a line for a finished run, unless the record has one.

        Raises:
            ExperimentError: the file cannot be written.
        """
        key = config_hash(config)
        if key in self._lines:
            return
        line = {
            "run": key,
            "settings": deciding_settings(config),
            "summary": {name: _short(value) for name, value in summary.items() if name not in _LEFT_OUT},
            "curve": curve_of(folder.read_metrics()),
        }
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.parent, wait=True):  # other grids may add their runs to the same file
                append(self.path, [line], whole=True, sync=True)
        self._lines[key] = line


def curve_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a short learning curve from the lines of a run's metrics: one entry per evaluated round.

    An entry has ``round``; ``train``, the clients' mean losses since the previous entry; ``updates``, the mean norm and
    agreement of their updates since then; and the mean score over clients by split and route.
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


def _distilled(losses: Mapping[str, float], settings: AlgorithmConfig) -> float | None:
    """Return the share of distillation in the sum of FedDAT's losses, from the means of their parts."""
    if not {"kl_global", "kl_dat", "loss"} <= losses.keys() or not losses["loss"]:
        return None
    return (settings.alpha * losses["kl_global"] + settings.beta * losses["kl_dat"]) / losses["loss"]


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
