"""Tables for a console that never cut off a cell: a table that is too wide is split into parts, one below another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

#: Wider than any table: for measuring, and for output to files and pipes.
UNLIMITED = 100_000


class FittedTable:
    """Rows under headings; the first column, which names the rows, is repeated in every part.

    Args:
        heads: headings of the columns.
        rows: texts of each row, one per heading.
        title: title above the first part.
        sections: indices of rows with a line above them.
    """

    def __init__(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[Text]],
        title: str | None = None,
        sections: Collection[int] = (),
    ) -> None:
        self.heads, self.rows, self.title, self.sections = heads, rows, title, sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the parts, each as wide as the console allows."""
        left, first = list(range(1, len(self.heads))), True
        while left or first:
            count = len(left)
            while count > 1 and self._width(console, options, left[:count]) > options.max_width:
                count -= 1
            yield self._part(left[:count], self.title if first else None)
            left, first = left[count:], False

    def _width(self, console: Console, options: ConsoleOptions, columns: Sequence[int]) -> int:
        return console.measure(self._part(columns), options=options.update(max_width=UNLIMITED)).maximum

    def _part(self, columns: Sequence[int], title: str | None = None) -> Table:
        part = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        part.add_column(Text(self.heads[0]), overflow="fold")  # a name that is too long by itself is wrapped
        for column in columns:
            part.add_column(Text(self.heads[column]), justify="right", no_wrap=True)
        for number, row in enumerate(self.rows):
            if number in self.sections:
                part.add_section()
            part.add_row(row[0], *(row[column] for column in columns))
        return part
