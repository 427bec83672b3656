"""JSON Lines: one JSON object per line; empty lines are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers.records import Record
from feddat.example import DataError


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON Lines file.

    Raises:
        DataError: a line is not a JSON object, or the file is not UTF-8.
    """
    # Only "\n" ends a line: splitlines() would also split at U+2028, which JSON allows inside a string.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        number = 0
        while True:
            number += 1
            where = f"line {number}"
            try:
                line = file.readline()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, {where} or later: not UTF-8 text: {error.reason}") from None
            if not line:
                return
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, {where}: not JSON: {error}") from None
            if not isinstance(fields, dict):
                raise DataError(f"{path}, {where}: expected a JSON object, got {line.strip()[:60]!r}")
            yield Record(path, where, fields)
