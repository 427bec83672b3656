"""Large JSON files, one element of a list at a time, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ijson

from feddat.data.readers.records import Record
from feddat.example import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read(path: Path, key: str = "") -> Iterator[Record]:
    """Yield the objects of the list under the top-level ``key``, or of the list that is the whole file.

    Raises:
        DataError: the file is cut off or not JSON, holds no such list, or an element is not an object.
    """
    name = key or "item"
    number = 0
    try:
        with path.open("rb") as file:
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            for number, fields in enumerate(ijson.items(file, f"{key}.item" if key else "item", use_float=True), 1):
                if not isinstance(fields, dict):
                    raise DataError(f"{path}, {name} {number}: expected a JSON object, got {str(fields)[:60]!r}")
                yield Record(path, f"{name} {number}", fields)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}, after {name} {number}: not JSON or cut off: {reason}") from None
    if not number:
        raise DataError(f"{path}: expected a list of objects" + (f" under the key {key!r}" if key else ""))
