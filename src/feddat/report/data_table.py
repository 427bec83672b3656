"""What of clients' data does not count as it should, as a run's summary tells: in a terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from rich.console import Group
from rich.text import Text

from feddat.report.fitted import FittedTable
from feddat.report.tables import Summary

#: Count, as :class:`feddat.client.data_notes.SplitNotes` names it -> its column, and what that means.
COLUMNS = {
    "questions": ("questions", ""),
    "left_out": ("left out", "records that were skipped as they were read"),
    "unanswerable": ("cannot be answered", "no answer is among the client's (of train: dropped)"),
    "cut": ("cut", "longer than the model reads"),
    "empty": ("empty", "no text that the model reads"),
    "repeated": ("repeated", "picture and text of another"),
    "seen": ("picture in train", "of a question of test"),
}
TITLE = "What of the data does not count as it should"
#: Rows of a table; one of a thousand clients would be read by nobody.
MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class DataTable:
    """A table of counts: a row for each client and split of which there is something to say.

    Attributes:
        headings: of its columns.
        rows: of texts.
        caption: what the columns mean, and how many rows there are no more.
    """

    headings: list[str]
    rows: list[list[str]]
    caption: str


def data_table(summaries: Sequence[Summary]) -> DataTable | None:
    """Return the table; ``None`` where there is nothing to say.

    Runs of one comparison have the same data: the first that tells of a split counts.
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
        meant.append(f"{len(rows) - MOST_ROWS} more rows stand in summary.json")
    headings = ["client", "split", *(COLUMNS[key][0] for key in used)]
    return DataTable(headings, rows[:MOST_ROWS], "; ".join(meant))


def to_rich(table: DataTable) -> Group:
    """Return the table for a rich console, its caption below."""
    rows = [[Text(f"{client}, {split}"), *map(Text, cells)] for client, split, *cells in table.rows]
    heads = [", ".join(table.headings[:2]), *table.headings[2:]]
    return Group(FittedTable(heads, rows, TITLE), Text(table.caption, "dim italic"))


def to_markdown(table: DataTable) -> str:
    """Return the table in Markdown under its title."""
    lines = [f"| {' | '.join(table.headings)} |", "| --- | --- |" + " ---: |" * (len(table.headings) - 2)]
    for row in table.rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"{TITLE} ({table.caption}):", "", *lines, ""])


def to_html(table: DataTable) -> Markup:
    """Return the table as HTML."""
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(heading.capitalize()) for heading in table.headings)
    rows = []
    for client, *cells in table.rows:
        body = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
        rows.append(Markup("<tr><th scope='row'>{}</th>{}</tr>").format(client, body))
    parts = "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    return Markup(parts).format(head, Markup("").join(rows))
