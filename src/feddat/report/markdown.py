"""The tables of any result folder in Markdown."""

from __future__ import annotations

from pathlib import Path

from feddat.report import data_table, method_table, newcomers, tables
from feddat.report.folder import kind_of, read_folder
from feddat.report.left_out import left_out
from feddat.report.study import read_study, study_markdown
from feddat.report.suite import kinds_markdown, read_suite, suite_markdown


def markdown(folder: Path) -> str:
    """Return the tables of a run, a comparison (with settings chosen on validation data), a study, suite or newcomers.

    Raises:
        DataError: the folder is none of these, or a file in it cannot be read.
    """
    kind = kind_of(folder)
    if kind == "suite":
        return suite_markdown(read_suite(folder)[1])
    if kind == "study":
        return study_markdown(read_study(folder))
    if kind == "newcomers":
        return newcomers.newcomers_markdown(newcomers.read_newcomers(folder))
    content = read_folder(folder)
    table = data_table.data_table(content.summaries)
    notes = [] if table is None else [data_table.to_markdown(table)]
    if lacking := left_out(content.summaries):
        notes.append(" ".join(lacking) + "\n")
    if not content.comparison:
        routes = tables.route_table(content.summaries)
        parts = [tables.to_markdown(routes or tables.score_table(content.summaries))]
        return "\n".join([*parts, *kinds_markdown(content.summaries), *notes])
    parts = [method_table.to_markdown(method_table.method_table(content.summaries))]
    parts += kinds_markdown(content.summaries)
    if content.tuning is not None:
        parts.append(method_table.tuning_markdown(content.tuning))
    return "\n".join([*parts, *notes])
