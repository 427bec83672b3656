"""Tables with a header line, as spreadsheets write them, separated by commas, semicolons or tabs.

The separator is the one that splits the header into the most columns that readers know. A first line ``sep=;``, which
Excel writes and reads, sets it explicitly. Several answers or choices in one cell are separated by ``|``, or are a list
as JSON or Python prints it.
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

#: Columns whose cells may hold several texts.
LISTS = ("answers", "choices")
SEPARATOR = "|"
#: Maximum length of a list in a cell, in characters; Python's parser may exhaust the stack on longer ones.
LONGEST_LIST = 10_000
#: Separator -> its name in messages. Then: file name suffix -> expected separators.
DELIMITERS = {",": "','", ";": "';'", "\t": "a tab"}
_EXPECTED = {".csv": ",", ".tsv": "\t"}
#: Separators of other programs, which are refused.
_OTHERS = "|:^~"
_SEP_LINE = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a table; an empty cell is ``None``, and a row of empty cells is skipped.

    Raises:
        DataError: a row has more or fewer cells than the header, a column occurs twice, or the file is not text.
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
        # A quoted cell may span lines, so messages name the line where a record begins.
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
            marks = f"put a cell that contains {DELIMITERS[delimiter]} in quotation marks"
            raise DataError(f"{path}, {place}: expected {len(header)} cells (as the header), got {len(cells)}; {marks}")
        yield Record(path, place, {name: _value(name, cell) for name, cell in zip(header, cells, strict=False) if name})


def _layout(path: Path, encoding: str) -> tuple[str, int]:
    """Return the separator of a table and the number of lines before its header."""
    with path.open(encoding=encoding, newline="") as file:
        first = next(read_lines(file, path), "")
        if (said := _SEP_LINE.fullmatch(first)) is not None:
            if said[1] not in DELIMITERS:
                expected = ", ".join(DELIMITERS.values())
                raise DataError(f"{path}, line 1: {first.strip()!r}: expected one of {expected} to separate columns")
            return said[1], 1
        rest = list(islice(read_lines(file, path), 9))  # a quoted header may span lines
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
    """Return the names of the columns; a column without one is empty or the index of a data frame."""
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
    """Return the list or mapping that JSON or Python printed in a cell; ``None`` if the cell holds neither."""
    for read_as in (json.loads, ast.literal_eval):
        try:
            return read_as(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _explained(error: csv.Error) -> str:
    """Return what is wrong with a row, in terms of cells; the messages of :mod:`csv` speak of characters."""
    if "field larger" in str(error):
        return f"a cell of more than {csv.field_size_limit():,} characters; is a quotation mark left open?"
    return f"{error}; write a quotation mark inside a quoted cell twice"
