"""Tables with a header line, as spreadsheets write them, separated by commas, semicolons or tabs.

The separator is the one that splits the header into the most columns that readers know. A first line ``sep=;``, which
Excel writes and reads, sets it explicitly. Several answers or choices in one cell are separated by ``|``, or are a list
as JSON or Python prints it. Lists as NumPy prints them, without commas, are refused.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
import re
import tokenize
from collections.abc import Collection, Iterator, Mapping
from io import StringIO
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from feddat.data.readers.columns import in_header
from feddat.data.readers.records import Record, canonical_columns, is_column
from feddat.data.readers.text_files import announce, read_lines, text_encoding
from feddat.data.readers.values import listed, shown
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
#: A list, mapping or array that a program printed, and what NumPy prints for an item that is no text.
_ITEM = r"(?:-?[\d.]+(?:e[+-]?\d+)?|None|nan|True|False|'[^']*')"
_PRINTED = re.compile(
    rf"""[\[{{][\s\[{{]*['"].*[\]}}]|\[\s*{_ITEM}(?:\s+{_ITEM})+\s*\]|\w*array\(\s*[\[{{].*\)""", re.DOTALL
)
_SEP_LINE = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)


def read(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Record]:
    """Yield the records of a table; an empty cell is ``None``, and a row of empty cells is skipped.

    Args:
        path: the table.
        columns: our column -> theirs, for columns that have other names; records keep theirs.

    Raises:
        DataError: a row has more or fewer cells than the header, a column occurs twice, a cell has a list in no known
            form, or the file is not text.
    """
    encoding = text_encoding(path, guess=True)
    given = {ours: in_header(theirs) for ours, theirs in (columns or {}).items()}
    lists = frozenset((*LISTS, *(name for ours in LISTS for name in given.get(ours, ()))))
    try:
        delimiter, skipped = _layout(path, encoding, frozenset(chain.from_iterable(given.values())))
        with path.open(encoding=encoding, newline="") as file:
            lines = read_lines(file, path)
            reader = csv.reader(islice(lines, skipped, None), delimiter=delimiter, strict=True)
            yield from _records(path, reader, skipped, delimiter, lists)
    except csv.Error as error:
        raise DataError(f"{path}: not a table: {error}") from None


def _records(path: Path, reader: Any, skipped: int, delimiter: str, lists: Collection[str]) -> Iterator[Record]:
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
        where = f"{path}, {place}"
        named = [(name, cell) for name, cell in zip(header, cells, strict=False) if name]
        yield Record(path, place, {name: _value(name, cell, lists, where) for name, cell in named})


def _layout(path: Path, encoding: str, named: Collection[str]) -> tuple[str, int]:
    """Return the separator of a table, given names of columns, and the number of lines before its header."""
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
        known = sum(is_column(name) or name.strip() in named for name in canonical_columns(tuple(cells)))
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


def _value(column: str, cell: str, lists: Collection[str], where: str) -> Any:
    if not cell.strip():
        return None
    if column not in lists:
        return cell
    text = cell.strip()
    closed = (text[0], text[-1]) in (("[", "]"), ("{", "}"), ("(", ")"))
    value = _literal(text) if closed and len(text) <= LONGEST_LIST else None
    if isinstance(value, list | dict):
        return value
    # (1,000) and (2, 3) are answers.
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    if _PRINTED.fullmatch(text):
        raise DataError(
            f"{where}: column {column!r}: {shown(text)} is a list that neither JSON nor Python can read; save "
            f"lists with json.dumps, or separate texts by '{SEPARATOR}'"
        )
    return cell.split(SEPARATOR) if SEPARATOR in cell else cell


def _literal(text: str) -> Any:
    """Return what JSON or Python printed in a cell; ``None`` if the cell holds neither."""
    for read_as in (json.loads, _python):
        try:
            return read_as(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _python(text: str) -> Any:
    value = ast.literal_eval(text)
    # Python joins texts without a comma between them, and NumPy prints arrays so.
    kinds = [token.type for token in tokenize.generate_tokens(StringIO(text).readline) if token.string.strip()]
    if any(one == other == tokenize.STRING for one, other in pairwise(kinds)):
        raise ValueError("texts without a comma between them")
    return value


def _explained(error: csv.Error) -> str:
    """Return what is wrong with a row, in terms of cells; the messages of :mod:`csv` speak of characters."""
    if "field larger" in str(error):
        return f"a cell of more than {csv.field_size_limit():,} characters; is a quotation mark left open?"
    return f"{error}; write a quotation mark inside a quoted cell twice"
