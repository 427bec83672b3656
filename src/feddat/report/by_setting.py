"""A record of runs against one setting: a table per federation, and one plot (``feddat report FILE --by KEY``)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.dotted import flat
from feddat.example import DataError
from feddat.files import write_atomic
from feddat.report.left_out import left_out
from feddat.report.method_table import OVERVIEW
from feddat.report.record import Record
from feddat.report.study import study_panels, table_markdown, whole_runs
from feddat.report.tables import Summary, own_scores


def studies(record: Record, key: str, default: Any, methods: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return a record's runs as studies of one setting (``study.json``) by federation.

    If there are several federations, their mean comes first. It counts a method at a value of the setting only with
    the seeds that have a run on every federation. Runs without the score of a client that others have do not count, as
    the study's notes say.

    Args:
        record: the runs.
        key: dotted configuration key.
        default: value of runs whose line does not name the key.
        methods: series, in this order; default: all.

    Raises:
        DataError: no run is left, or none has a score of all clients; or two runs of one method, federation, value
            and seed differ in other settings.
    """
    found: dict[str, dict[tuple[str, Any, int], dict[str, Any]]] = {}
    unscored: dict[str, list[Summary]] = {}
    for line in record.lines:
        summary = line["summary"]
        if summary.get("split") == "validation" or (methods and summary["method"] not in methods):
            continue
        if not summary["clients"]:
            unscored.setdefault(str(summary.get("benchmark") or "own data"), []).append(summary)
            continue
        value = flat(line["settings"]).get(key, default)
        runs = found.setdefault(str(summary.get("benchmark") or "own data"), {})
        name = (summary["method"], _text(value), summary["seed"])
        if name in runs:
            raise DataError(
                f"{record.name}: {summary['method']} on {summary.get('benchmark')}, {key} {value}, seed "
                f"{summary['seed']}, occurs with several other settings; expected runs that differ only in {key}"
            )
        runs[name] = {"value": value, "scores": own_scores(summary)}
    if not found and unscored:
        raise DataError(f"{record.name}: no client has a score in any of its runs")
    if not found:
        raise DataError(f"{record.name}: contains no runs to compare")
    every_study = {federation: _study(federation, key, runs, methods) for federation, runs in found.items()}
    made = {federation: study for federation, study in every_study.items() if study["records"]}
    if not made:
        raise DataError(f"{record.name}: no run has scores of all clients that other runs have")
    notes = {federation: study["notes"] for federation, study in every_study.items() if federation not in made}
    notes |= {federation: [*notes.get(federation, ()), *left_out(runs)] for federation, runs in unscored.items()}
    for federation, said in notes.items():
        made.get(federation, next(iter(made.values())))["notes"] += said
    if len(found) == 1:
        return made
    every: dict[tuple[str, Any, int], dict[str, Any]] = {}
    for name in dict.fromkeys(name for runs in found.values() for name in runs):
        if all(name in runs for runs in found.values()):
            scores = {f"{fed}/{c}": s for fed, runs in found.items() for c, s in runs[name]["scores"].items()}
            every[name] = {"value": next(iter(found.values()))[name]["value"], "scores": scores}
    together = _study(OVERVIEW, key, every, methods)
    return ({OVERVIEW: together} if together["records"] else {}) | made


def _study(
    federation: str, key: str, runs: Mapping[tuple[str, Any, int], Mapping[str, Any]], methods: Sequence[str] | None
) -> dict[str, Any]:
    order = list(methods or dict.fromkeys(method for method, _, _ in runs))
    ranked = sorted(runs.items(), key=lambda item: (_rank(item[1]["value"]), order.index(item[0][0]), item[0][2]))
    study = {
        "study": key,
        "axis": key,
        "rows": key,
        "curve": False,
        "by_route": False,
        "split": "test",
        "benchmark": federation,
        "notes": [],
        "records": [
            {
                "method": method,
                "route": "score",
                "seed": seed,
                "point": _text(run["value"]),
                "x": run["value"] if _is_number(run["value"]) else None,
                "score": statistics.fmean(run["scores"].values()),
                "clients": run["scores"],
            }
            for (method, _, seed), run in ranked
        ],
    }
    return whole_runs(study)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if _is_number(value) else str(value)


def _rank(value: Any) -> tuple[int, float, str]:
    """Sort numbers by size, then texts, then ``None``, which usually stands for no limit."""
    if _is_number(value):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of :func:`studies` in Markdown: values as rows, methods as columns."""
    return "\n".join(f"### {title}\n\n{table_markdown(study)}" for title, study in found.items())


def write(stem: Path, key: str, found: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write the tables (``STEM.KEY.md``) and the plot (``STEM.KEY.png``); return their paths.

    Raises:
        OSError: a file cannot be written.
    """
    written = [stem.with_name(f"{stem.name}.{key}{suffix}") for suffix in (".md", ".png")]
    write_atomic(written[0], markdown(found).encode())
    write_atomic(written[1], study_panels(found))
    return written
