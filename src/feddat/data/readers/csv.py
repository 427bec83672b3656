"""Tables with a header line, as spreadsheets write them: values between commas, semicolons or tabs.

What separates the columns is what makes most of our columns out of the header; a first line ``sep=;``, which Excel
writes and reads, says it outright. Several answers or choices in one cell are separated by ``|``, or are a list as JSON
or Python prints one.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from feddat.data.readers.records import Record, canonical_columns, is_column
from feddat.data.readers.text_files import announce, read_lines, text_encoding
from feddat.data.readers.values import listed
from feddat.example import DataError

#: Columns whose cell may hold several texts.
LISTS = ("answers", "choices")
SEPARATOR = "|"
#: Characters of a list in a cell; parsers of Python may use up the stack on longer ones.
LONGEST_LIST = 10_000
#: What may stand between cells -> what messages call it; by the ending of a file's name, what is expected.
DELIMITERS = {",": "','", ";": "';'", "\t": "a tab"}
_EXPECTED = {".csv": ",", ".tsv": "\t"}
#: Signs that other programs put between cells.
_OTHERS = "|:^~"
_SEP_LINE = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a table; an empty cell is ``None``, a row of empty cells is passed over.

    Raises:
        DataError: a row has more or fewer cells than the header, a column occurs twice, or the file is no text.
    """
    encoding = text_encoding(path, guess=True)
    try:
        delimiter, skipped = _layout(path, encoding)
        with path.open(encoding=encoding, newline="") as file:
            lines = read_lines(file, path)
            reader = csv.reader(islice(lines, skipped, None), delimiter=delimiter, strict=True)
            yield from _records(path, reader, skipped, delimiter)
    except csv.Error as error:
        raise DataError(f"{path}: not a table: {error}") from None


def _records(path: Path, reader: Any, skipped: int, delimiter: str) -> Iterator[Record]:
    header: list[str] | None = None
    while True:
        # A quoted cell may span lines: a record is named by the line that it begins on.
        place = f"line {skipped + reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, {place}: not CSV: {_explained(error)}") from None
        if cells is None:
            return
        if header is None:
            header = _header(path, cells, place)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(header) or any(cells[len(header) :]):
            marks = f"a cell that holds {DELIMITERS[delimiter]} must stand in quotation marks"
            raise DataError(f"{path}, {place}: {len(cells)} cells where the header has {len(header)}; {marks}")
        yield Record(path, place, {name: _value(name, cell) for name, cell in zip(header, cells, strict=False) if name})


def _layout(path: Path, encoding: str) -> tuple[str, int]:
    """Return what separates the columns of a table, and how many lines stand before its header."""
    with path.open(encoding=encoding, newline="") as file:
        first = next(read_lines(file, path), "")
        if (said := _SEP_LINE.fullmatch(first)) is not None:
            if said[1] not in DELIMITERS:
                expected = ", ".join(DELIMITERS.values())
                raise DataError(f"{path}, line 1: {first.strip()!r}: expected one of {expected} to separate columns")
            return said[1], 1
        rest = list(islice(read_lines(file, path), 9))  # of a header in quotes that spans lines
    expected = _EXPECTED.get(path.suffix.lower(), ",")

    def fit(delimiter: str) -> tuple[int, int, bool]:
        cells = next(csv.reader([first, *rest], delimiter=delimiter), [])
        known = sum(map(is_column, canonical_columns(tuple(cells))))
        return known, len(cells), delimiter == expected

    best = max(DELIMITERS, key=fit)
    other = max(_OTHERS, key=fit)
    if fit(other)[0] > fit(best)[0]:
        expected = f"expected one of {', '.join(DELIMITERS.values())}"
        raise DataError(f"{path}, line 1: looks like {other!r} separates its columns; {expected}")
    if best != expected:
        announce(logging.INFO, f"{path}: its columns are separated by {DELIMITERS[best]}")
    return best, 0


def _header(path: Path, cells: list[str], place: str) -> list[str]:
    """Return the columns' names; those without one are a spreadsheet's empty columns or a data frame's index."""
    names = [name.strip() for name in canonical_columns(tuple(cells))]
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise DataError(f"{path}, {place}: a column occurs twice: {listed(cells)}")
    while names and not names[-1]:
        names.pop()
    return names


def _value(column: str, cell: str) -> Any:
    if not cell.strip():
        return None
    if column not in LISTS:
        return cell
    text = cell.strip()
    if (
        len(text) <= LONGEST_LIST
        and (text[0], text[-1]) in (("[", "]"), ("{", "}"))
        and isinstance(value := _literal(text), list | dict)
    ):
        return value
    return cell.split(SEPARATOR) if SEPARATOR in cell else cell


def _literal(text: str) -> Any:
    """Return what a list or mapping printed by JSON or Python holds; ``None`` where it is neither."""
    for read_as in (json.loads, ast.literal_eval):
        try:
            return read_as(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _explained(error: csv.Error) -> str:
    """Return what is wrong in a row; the module's messages are about characters, what helps is about cells."""
    if "field larger" in str(error):
        return f"a cell of more than {csv.field_size_limit():,} characters; is a quotation mark left open?"
    return f"{error}; a quotation mark inside a cell in quotation marks is written twice"
