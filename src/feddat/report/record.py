"""Tables and plots of a record of runs (``feddat compare --record FILE``), made only from its lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.dotted import flat
from feddat.example import DataError
from feddat.files import write_atomic
from feddat.json_lines import parse
from feddat.report import forest, method_table, tables
from feddat.report.conclusion import conclusion
from feddat.report.folder import check_summary
from feddat.report.left_out import lacking, left_out
from feddat.report.means import CHOOSE_CLIENTS, all_clients, is_whole
from feddat.report.method_table import joined
from feddat.report.tables import Summary

#: Keys of every line.
KEYS = ("run", "settings", "summary", "curve")


@dataclass(frozen=True, slots=True)
class Record:
    """The lines of one or more files.

    Attributes:
        name: the files' names, for messages.
        lines: their lines in order, each run once.
    """

    name: str
    lines: Sequence[Mapping[str, Any]]

    def of_seeds(self, seeds: Sequence[int]) -> Record:
        """Return the record with only these seeds; searches for settings stay.

        Raises:
            DataError: there is no run with one of the seeds.
        """
        known = {line["summary"]["seed"] for line in self.lines if not _searched(line)}
        if missing := sorted(set(seeds) - known):
            listed = [", ".join(map(str, some)) for some in (missing, sorted(known))]
            raise DataError(f"{self.name}: no run with seed {listed[0]}; it has {listed[1]}")
        return Record(self.name, [line for line in self.lines if _searched(line) or line["summary"]["seed"] in seeds])


def _searched(line: Mapping[str, Any]) -> bool:
    """Return whether a run was only made to choose settings."""
    return bool(line["summary"].get("split") == "validation")


def read_record(*paths: Path) -> Record:
    """Read files of a record; a run that is in several of them counts once.

    Raises:
        DataError: see :func:`read_lines`.
    """
    lines = {line["run"]: line for path in reversed(paths) for line in reversed(read_lines(path))}
    return Record(", ".join(map(str, paths)), list(reversed(lines.values())))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record, each with the keys :data:`KEYS`.

    Raises:
        DataError: the file cannot be read, or a line is not a line of a record.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if content and not content.endswith(b"\n"):  # an editor may have removed the last line feed
        content += b"\n"
    lines = []
    for number, line in parse(content):
        if line is None or not _is_run(line):
            raise DataError(f"{path}, line {number}: not a line of a record of runs")
        check_summary(line["summary"], f"{path}, line {number}: summary")
        lines.append({key: line[key] for key in KEYS})
    return lines


def _is_run(line: Mapping[str, Any]) -> bool:
    """Return whether a line has the keys :data:`KEYS` with values of the right type, apart from the summary's keys."""
    kinds = (str, dict, dict, list)
    if not all(isinstance(line.get(key), kind) for key, kind in zip(KEYS, kinds, strict=True)):
        return False
    return all(isinstance(entry, dict) and {"train", "updates"} <= entry.keys() for entry in line["curve"])


def federations(record: Record, methods: Sequence[str] | None = None) -> dict[str, list[Summary]]:
    """Return a record's summaries by federation, with methods in order and seeds ascending.

    Runs scored on validation data are left out; they were made to choose settings.

    Args:
        record: the runs.
        methods: methods to keep, in this order; default: all, in order of first appearance.

    Raises:
        DataError: there is no run, or none of these methods; or there are two runs of one method, federation and seed
            with different settings, which do not fit into one table.
    """
    lines = [line for line in record.lines if not _searched(line)]
    if not lines:
        searched = f"; runs on validation data ({len(record.lines)}) only choose settings" if record.lines else ""
        raise DataError(f"{record.name}: contains no runs to compare{searched}")
    found: dict[str, dict[tuple[str, int], Summary]] = {}
    for line in lines:
        summary = line["summary"]
        runs = found.setdefault(str(summary.get("benchmark") or "own data"), {})
        key = (summary["method"], summary["seed"])
        if key in runs:
            raise DataError(
                f"{record.name}: {summary['method']} on {summary['benchmark']}, seed {summary['seed']}, occurs with "
                "several settings; make the tables with the command that wrote the record"
            )
        runs[key] = summary
    known = list(dict.fromkeys(line["summary"]["method"] for line in lines))
    order = known if methods is None else methods
    kept = {name: [key for key in runs if key[0] in order] for name, runs in found.items()}
    if not any(kept.values()):
        raise DataError(f"{record.name}: no runs of {', '.join(order)}; the runs are of {', '.join(known)}")
    return {
        name: [found[name][key] for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1]))]
        for name, keys in kept.items()
        if keys
    }


def record_markdown(record: Record, methods: Sequence[str] | None = None, reference: str | None = None) -> str:
    """Return a record as Markdown: its conclusion in sentences, its tables, and its searches for settings.

    Raises:
        DataError: see :func:`federations`; or there is no run of the reference.
    """
    found = federations(record, methods)
    if reference is not None:
        method_table.check_reference(reference, (s["method"] for summaries in found.values() for s in summaries))
    runs = joined(found) if len(found) > 1 else next(iter(found.values()))
    lacks = left_out([summary for rows in found.values() for summary in rows])
    parts = [" ".join([*conclusion(runs, reference), *lacks]) + "\n"]
    parts += [
        f"### {title}\n\n{method_table.to_markdown(table)}"
        for title, table in method_table.federation_tables(found, reference).items()
    ]
    return "\n".join([*parts, search_markdown(record)])


def search_markdown(record: Record) -> str:
    """Return a record's searches for settings as Markdown: validation scores by method and setting.

    Columns are the settings in which the runs of one federation differ. A number is the mean over clients and seeds, of
    the runs with scores of all clients.
    """
    searched: dict[str, list[Mapping[str, Any]]] = {}
    for line in record.lines:
        if _searched(line):
            searched.setdefault(str(line["summary"].get("benchmark") or "own data"), []).append(line)
    return "\n".join(
        f"### Searched on {source}, validation data\n\n{_search(lines)}" for source, lines in searched.items()
    )


def _search(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the searches on one federation, and a sentence about runs that lack clients."""
    settings = [flat(line["settings"]) for line in lines]
    keys = sorted(
        key for key in set().union(*settings) - {"seed", "method"} if len({str(s.get(key)) for s in settings}) > 1
    )
    runs: dict[tuple[str, ...], list[tuple[str, str, Summary]]] = {}
    for line, values in zip(lines, settings, strict=True):
        point = " ".join(f"{key}={values[key]}" for key in keys if key in values) or "as given"
        chosen = tuple(str(values.get(key)) for key in CHOOSE_CLIENTS)
        runs.setdefault(chosen, []).append((tables.run_title(line["summary"]), point, line["summary"]))
    rows: dict[str, dict[str, list[float]]] = {}
    notes = []
    for group in runs.values():
        clients = all_clients(summary["clients"] for _, _, summary in group)
        for title, point, summary in group:
            found = rows.setdefault(title, {}).setdefault(point, [])
            if is_whole(summary["clients"], clients):
                found.append(summary["mean"])
        notes += lacking({f"{title}, {point}": s["clients"] for title, point, s in group if s["clients"]}, clients)
    points = sorted({point for row in rows.values() for point in row})
    cells = {name: [tuple(row.get(point, ())) for point in points] for name, row in rows.items()}
    table = tables.to_markdown(tables.make_table(points, cells, "method"))
    return table + (f"\n{' '.join(notes)}\n" if notes else "")


def write_record(
    record: Record, stem: Path, methods: Sequence[str] | None = None, reference: str | None = None
) -> list[Path]:
    """Write the tables (``STEM.md``) and the forest plot (``STEM.png``) of a record; return their paths.

    Raises:
        DataError: see :func:`record_markdown`.
        OSError: a file cannot be written.
    """
    text = record_markdown(record, methods, reference)
    written = [stem.with_name(stem.name + suffix) for suffix in (".md", ".png")]
    write_atomic(written[0], text.encode())
    write_atomic(written[1], forest.picture(federations(record, methods), reference))
    return written
