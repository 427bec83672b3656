"""JSON files of own data: an array of records, or records one after the other.

An object around the records is read too if its meaning is clear: one list of records under any key, or a mapping from
ids to records.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import ijson

from feddat.data.readers import jsonl
from feddat.data.readers.json_depth import Shallow
from feddat.data.readers.records import Record, canonical_columns, is_column
from feddat.data.readers.text_files import LONGEST_LINE, announce, text_encoding
from feddat.data.readers.values import listed, shown
from feddat.example import DataError

#: Characters to read to find out whether a file is an array.
PEEK = 4096


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON file; an array is read one record at a time, so memory does not grow with the file.

    Raises:
        DataError: the file is cut off, is not JSON or not Unicode text, or holds something other than records.
    """
    encoding = text_encoding(path)
    try:
        with path.open(encoding=encoding, newline="\n") as file:
            start = file.read(PEEK).lstrip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, at its beginning: not {error.encoding} text: {error.reason}") from None
    if not start:
        return iter(())
    if start.startswith("["):
        return _records(path, encoding, "item", "item")
    return jsonl.read(path) if _is_lines(path, encoding) else _objects(path, encoding)


def _records(path: Path, encoding: str, prefix: str, name: str) -> Iterator[Record]:
    """Yield the objects at ``prefix`` as records; messages call them ``name`` and a number."""
    number = 0
    for number, item in enumerate(_parsed(path, encoding, prefix, name), 1):
        if not isinstance(item, dict):
            raise DataError(f"{path}, {name} {number}: expected a JSON object, got {type(item).__name__}")
        yield Record(path, f"{name} {number}", item)


def _objects(path: Path, encoding: str) -> Iterator[Record]:
    """Yield the records of a file that is not an array: one object that holds them, or several that are records."""
    objects = _records(path, encoding, "", "object")
    first, second = next(objects, None), next(objects, None)
    if first is None:
        return
    if second is None and not any(map(is_column, canonical_columns(tuple(first.fields)))):
        yield from _inside(path, first.fields)
        return
    if second is None and all(isinstance(value, dict) for value in first.fields.values()):
        raise DataError(f"{path}: holds columns of values; expected an array of records (pandas: orient='records')")
    yield from chain([first], [second] if second else [], objects)


def _inside(path: Path, content: Any) -> Iterator[Record]:
    """Yield the records in an object that is not a record itself."""
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    if len(lists) == 1:
        ((key, items),) = lists.items()
        announce(logging.INFO, f"{path}: reading the records under {shown(key)}")
        for number, item in enumerate(items, 1):
            if not isinstance(item, dict):
                raise DataError(f"{path}, {listed([key])} {number}: expected a JSON object, got {type(item).__name__}")
            yield Record(path, f"{listed([key])} {number}", item)
    elif content and all(isinstance(value, dict) for value in content.values()):
        announce(logging.INFO, f"{path}: reading the values as records and the keys as their ids")
        for key, item in content.items():
            yield Record(path, f"key {shown(key)}", {"id": key} | item)
    else:
        keys = listed(content) or "none"
        raise DataError(f"{path}: expected an array of records, or one per line; got an object with keys {keys}")


def _parsed(path: Path, encoding: str, prefix: str, name: str) -> Iterator[Any]:
    number = 0
    twice: list[str] = []

    class Object(dict[str, Any]):
        """Collects repeated keys; ijson cannot be stopped while it builds an object."""

        __slots__ = ()

        def __setitem__(self, key: str, value: Any) -> None:
            if key in self:
                twice.append(key)
            super().__setitem__(key, value)

    options = {"use_float": True, "multiple_values": not prefix, "map_type": Object}
    try:
        with path.open(encoding=encoding, newline="") as file:
            for item in ijson.items(Shallow(_Utf8(file)), prefix, **options):
                if twice:
                    break
                number += 1
                yield item
    except (ijson.JSONError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        where = f"after {name} {number}" if number else "at its beginning"
        raise DataError(f"{path}, {where}: not JSON or cut off: {reason}") from None
    if twice:
        # ijson reads ahead, so the record may be a later one.
        raise DataError(f"{path}, {name} {number + 1} or later: key {shown(twice[0])} occurs twice in one object")


class _Utf8:
    """A text file as UTF-8 bytes, for ijson."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        """Return at least one byte, unless the file has ended or ``size`` is 0."""
        return self._file.read(size).encode()


def _is_lines(path: Path, encoding: str) -> bool:
    """Return whether the first line that is not empty is an object and other lines follow."""
    with path.open(encoding=encoding, newline="\n") as file:
        lines = (line for line in iter(lambda: file.readline(LONGEST_LINE), "") if line.strip())
        try:
            return isinstance(json.loads(next(lines, "")), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False
