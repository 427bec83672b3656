"""JSON Lines: one JSON object per line; empty lines are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feddat.data.readers.records import Record
from feddat.data.readers.text_files import read_lines, text_encoding
from feddat.data.readers.values import shown
from feddat.example import DataError


class UniqueKeys(dict[str, Any]):
    """A JSON object that refuses repeated keys; a reader would have to guess which value is meant.

    Raises:
        ValueError: a key occurs twice.
    """

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            raise ValueError(f"key {shown(key)} occurs twice in one object")
        super().__setitem__(key, value)


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a JSON Lines file.

    Raises:
        DataError: a line is not a JSON object, a key occurs twice in one, or the file is not Unicode text.
    """
    # Only "\n" ends a line: splitlines() would also split at U+2028, which JSON allows inside a string.
    with path.open(encoding=text_encoding(path), newline="\n") as file:
        for number, line in enumerate(read_lines(file, path), 1):
            where = f"line {number}"
            if not line.strip():
                continue
            try:
                fields = json.loads(line, object_pairs_hook=UniqueKeys)
            except (ValueError, RecursionError) as error:
                array = number == 1 and line.lstrip().startswith("[")
                hint = "; give a file with one JSON array a name that ends in .json" if array else ""
                raise DataError(f"{path}, {where}: not JSON: {error}{hint}") from None
            if not isinstance(fields, dict):
                raise DataError(f"{path}, {where}: expected a JSON object, got {line.strip()[:60]!r}")
            yield Record(path, where, fields)
