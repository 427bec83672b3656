"""Comma-separated values with a header line; several answers or choices in one cell are separated by ``|``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feddat.data.readers.records import Record
from feddat.example import DataError

#: Columns whose cell may hold several texts.
LISTS = ("answers", "choices")
SEPARATOR = "|"


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a CSV file; an empty cell counts as absent.

    Raises:
        DataError: a row has more or fewer cells than the header, a column occurs twice, or the file is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header):
                raise DataError(f"{path}, line 1: a column occurs twice: {', '.join(header)}")
            first = reader.line_num + 1
            for cells in reader:
                # A quoted cell may span lines: a record is named by the line that it begins on.
                place, first = f"line {first}", reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{path}, {place}: {len(cells)} cells where the header has {len(header)}")
                fields = {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell}
                yield Record(path, place, fields)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {reader.line_num + 1} or later: not UTF-8 text: {error.reason}") from None


def _value(column: str, cell: str) -> Any:
    return cell.split(SEPARATOR) if column in LISTS and SEPARATOR in cell else cell
