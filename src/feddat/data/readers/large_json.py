"""Read large JSON files with ijson, one object at a time, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import ijson

from feddat.data.readers.json_depth import Shallow
from feddat.data.readers.records import Record
from feddat.data.readers.values import shown
from feddat.example import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Open file -> place and value of every element.
Parse: TypeAlias = Callable[[IO[bytes]], Iterator[tuple[str, Any]]]


def elements(path: Path, key: str = "") -> Iterator[Record]:
    """Yield the objects of the list under the top-level ``key``; without one, the whole file is the list.

    Raises:
        DataError: the file is cut off or not JSON, holds no such list, or an element is not an object.
    """

    def parse(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
        prefix, name = (f"{key}.item", key) if key else ("item", "item")
        for number, item in enumerate(ijson.items(Shallow(file), prefix, use_float=True), 1):
            yield f"{name} {number}", item

    return _records(path, parse, "a list of objects" + (f" under the key {key!r}" if key else ""))


def entries(path: Path, name: str) -> Iterator[Record]:
    """Yield the objects of a file that is one mapping, each with its key as the field ``name``.

    Raises:
        DataError: the file is cut off or not JSON, is not a mapping, or a value is not an object.
    """

    def parse(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
        for key, value in ijson.kvitems(Shallow(file), "", use_float=True):
            yield f"{name} {key}", {name: key} | value if isinstance(value, dict) else value

    return _records(path, parse, "a mapping from keys to objects")


def _records(path: Path, parse: Parse, expected: str) -> Iterator[Record]:
    place = ""
    try:
        with path.open("rb") as file:
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            for place, fields in parse(file):
                if not isinstance(fields, dict):
                    raise DataError(f"{path}, {place}: expected a JSON object, got {shown(fields)}")
                yield Record(path, place, fields)
    except DataError:
        raise
    except (ijson.JSONError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        where = f"after {place}" if place else "at its beginning"
        raise DataError(f"{path}, {where}: not JSON or cut off: {reason}") from None
    if not place:
        raise DataError(f"{path}: expected {expected}")
