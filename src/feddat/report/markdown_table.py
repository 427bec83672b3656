"""A table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: Cells below the headings of columns of texts and of numbers.
TEXTS, NUMBERS = "---", "---:"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str] | None = None) -> str:
    """Return a table in Markdown, which ends with a line feed; a ``|`` within a cell is escaped.

    Args:
        headings: texts of the first line.
        rows: texts of the cells, as many as headings.
        align: cells of the line below the headings; default: the first column contains texts, and the others numbers.
    """
    below = align if align is not None else [TEXTS, *[NUMBERS] * (len(headings) - 1)]
    lines = [_escaped(headings), below, *map(_escaped, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
