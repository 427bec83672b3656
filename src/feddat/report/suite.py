"""The tables and the page of a suite: the comparisons of several federations, and their results together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.example import DataError
from feddat.files import write_atomic
from feddat.report import method_table, plots
from feddat.report import tables as score_tables
from feddat.report.conclusion import conclusion
from feddat.report.folder import KINDS, Folder, read_folder, read_keys
from feddat.report.left_out import left_out
from feddat.report.method_table import MethodTable
from feddat.report.page import environment


def write_suite(folder: Path | str) -> Path:
    """Write ``report.html``, ``results.md``, ``results.csv`` and ``results.tex`` of a suite; return the page's path.

    The CSV file contains the table over all federations. Each federation's own table is in its folder.

    Raises:
        DataError: the folder is not that of a suite, or a file in it cannot be read.
    """
    folder = Path(folder)
    suite, found = read_suite(folder)
    tables = suite_tables(found)
    latex = [f"% {title}\n{method_table.to_latex(table)}" for title, table in tables.items()]
    write_atomic(folder / "results.md", suite_markdown(found).encode())
    write_atomic(folder / "results.csv", method_table.to_csv(next(iter(tables.values()))).encode())
    write_atomic(folder / "results.tex", "\n".join(latex).encode())
    page = environment().get_template("suite.html")
    target = folder / "report.html"
    write_atomic(target, page.render(_context(folder, suite, found, tables)).encode())
    return target


def read_suite(folder: Path) -> tuple[dict[str, Any], dict[str, Folder]]:
    """Return the content of ``suite.json``, and by federation the comparisons that have a finished run.

    Raises:
        DataError: the folder is not that of a suite, or a file in it cannot be read.
    """
    file = folder / KINDS["suite"]
    suite = read_keys(file, ("suite", "folders"))
    labels = suite["folders"]
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise DataError(f"{file}: folders: expected the name of a folder for each federation")
    if not isinstance(suite.get("failed", {}), dict):
        raise DataError(f"{file}: failed: expected the reason for each run")
    done = {n: folder / label for n, label in labels.items() if (folder / label / KINDS["comparison"]).is_file()}
    if not done:
        raise DataError(f"{folder}: no comparison of this suite has a finished run")
    return suite, {name: read_folder(path) for name, path in done.items()}


def suite_tables(found: Mapping[str, Folder]) -> dict[str, MethodTable]:
    """Return the tables of a suite's comparisons; see :func:`~feddat.report.method_table.federation_tables`."""
    return method_table.federation_tables({name: content.summaries for name, content in found.items()})


def suite_markdown(found: Mapping[str, Folder]) -> str:
    """Return all tables under headings, and the settings chosen on validation data."""
    parts = [f"### {title}\n\n{method_table.to_markdown(table)}" for title, table in suite_tables(found).items()]
    for name, content in found.items():
        parts += [f"### {name}, by kind of question\n\n{table}" for table in kinds_markdown(content.summaries)]
    if lacking := left_out([summary for content in found.values() for summary in content.summaries]):
        parts.append(" ".join(lacking) + "\n")
    # One search may have served for several federations.
    searches = {str(content.tuning.get("benchmark")): content.tuning for content in found.values() if content.tuning}
    for source, tuning in searches.items():
        parts.append(f"### {' and '.join(tuning['keys'])} chosen on {source}\n\n{method_table.tuning_markdown(tuning)}")
    return "\n".join(parts)


def kinds_markdown(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of scores by kind of question in Markdown; an empty list if there is none."""
    table = score_tables.kind_table(summaries)
    return [] if table is None else [score_tables.to_markdown(table)]


def _context(
    folder: Path, suite: Mapping[str, Any], found: Mapping[str, Folder], tables: Mapping[str, MethodTable]
) -> dict[str, Any]:
    summaries = [summary for content in found.values() for summary in content.summaries]
    seeds = sorted({summary["seed"] for summary in summaries})
    return {
        "light": plots.LIGHT,
        "title": suite.get("description", suite["suite"]),
        "name": folder.resolve().name,
        "tables": [
            (title, method_table.to_html(table), suite["folders"].get(title)) for title, table in tables.items()
        ],
        "conclusion": [
            *conclusion(method_table.joined({name: content.summaries for name, content in found.items()})),
            *left_out(summaries),
        ],
        "seeds": len(seeds),
        "runs": len(summaries),
        "seconds": sum(float(summary.get("seconds") or 0) for summary in summaries),
        "failed": suite.get("failed", {}),
        "reference": next(iter(tables.values())).reference,
    }
