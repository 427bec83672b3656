"""Tables on a console, of which no cell is ever cut: in parts one below the other, where there is no room beside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

#: As wide as no table is: for measuring, and for what is written to files and pipes.
UNLIMITED = 100_000


class FittedTable:
    """Rows under headings; the first column names the rows, and stands in every part.

    Args:
        heads: headings, the first of the rows' names.
        rows: texts of each row under them.
        title: above it all.
        sections: numbers of rows that have a line above them.
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
        """Yield the parts for the room that there is."""
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
        part.add_column(Text(self.heads[0]), overflow="fold")  # where a name alone is too long, it goes over two lines
        for column in columns:
            part.add_column(Text(self.heads[column]), justify="right", no_wrap=True)
        for number, row in enumerate(self.rows):
            if number in self.sections:
                part.add_section()
            part.add_row(row[0], *(row[column] for column in columns))
        return part
