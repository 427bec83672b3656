"""The data issues in a run's summary as a table: for the terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from rich.console import Group
from rich.text import Text

from feddat.report.fitted import FittedTable
from feddat.report.markdown_table import NUMBERS, TEXTS, markdown_table
from feddat.report.tables import Summary

#: Name of a count in :class:`feddat.client.data_notes.SplitNotes` -> heading of its column, and its meaning.
COLUMNS = {
    "questions": ("questions", ""),
    "left_out": ("left out", "records skipped while reading"),
    "unanswerable": ("cannot be answered", "no right answer is on the client's list (in train: dropped)"),
    "cut": ("cut", "text longer than the model's limit"),
    "empty": ("empty", "no text that the model can read"),
    "repeated": ("repeated", "same picture and text as another question"),
    "seen": ("picture in train", "test question whose picture is also in train"),
}
TITLE = "Data issues"
#: Most rows of a table; nobody would read one with a thousand clients.
MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class DataTable:
    """A table of counts with one row for each client and split that has issues.

    Attributes:
        headings: of the columns.
        rows: texts of the cells.
        caption: meaning of the columns, and number of rows left out.
    """

    headings: list[str]
    rows: list[list[str]]
    caption: str


def data_table(summaries: Sequence[Summary]) -> DataTable | None:
    """Return the table, or ``None`` if there are no issues.

    All runs of a comparison have the same data, so the first run that has counts for a split is used.
    """
    notes: dict[tuple[str, str], Mapping[str, Any]] = {}
    for summary in summaries:
        for client, splits in summary.get("data", {}).items():
            for split, counts in splits.items():
                notes.setdefault((client, split), counts)
    if not notes:
        return None
    used = [key for key in COLUMNS if any(counts.get(key) for counts in notes.values())]
    rows = [[*place, *(str(counts.get(key) or "") for key in used)] for place, counts in notes.items()]
    meant = [f"{name}: {meaning}" for name, meaning in (COLUMNS[key] for key in used) if meaning]
    if len(rows) > MOST_ROWS:
        meant.append(f"{len(rows) - MOST_ROWS} more rows are in summary.json")
    headings = ["client", "split", *(COLUMNS[key][0] for key in used)]
    return DataTable(headings, rows[:MOST_ROWS], "; ".join(meant))


def to_rich(table: DataTable) -> Group:
    """Return the table with its caption below, for a rich console."""
    rows = [[Text(f"{client}, {split}"), *map(Text, cells)] for client, split, *cells in table.rows]
    heads = [", ".join(table.headings[:2]), *table.headings[2:]]
    return Group(FittedTable(heads, rows, TITLE), Text(table.caption, "dim italic"))


def to_markdown(table: DataTable) -> str:
    """Return the table in Markdown, below its title."""
    align = [TEXTS, TEXTS, *[NUMBERS] * (len(table.headings) - 2)]
    return f"{TITLE} ({table.caption}):\n\n{markdown_table(table.headings, table.rows, align)}"


def to_html(table: DataTable) -> Markup:
    """Return the table as HTML."""
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(heading.capitalize()) for heading in table.headings)
    rows = []
    for client, *cells in table.rows:
        body = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
        rows.append(Markup("<tr><th scope='row'>{}</th>{}</tr>").format(client, body))
    parts = "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    return Markup(parts).format(head, Markup("").join(rows))
