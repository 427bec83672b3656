"""Folders of Hugging Face ``datasets``: Parquet shards as on the Hub, or what ``save_to_disk`` wrote.

For a split named ``train`` (huggingface.co/docs/datasets, "Main classes" and "Structure your repository")::

    data/train-00000-of-00002.parquet, ...    or the same without data/, or train.parquet
    train/state.json, train/data-00000-of-00001.arrow, ...                  (save_to_disk)

Which column holds what is named by a mapping, ``{"question": "q", "answers": "answers.answer"}``: a dot reaches into a
struct, or into every struct of a list; a number after a dot takes one item of a list (``pair.0``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.data.readers import arrow
from feddat.data.readers.records import Record
from feddat.example import DataError


@dataclass(frozen=True)
class Folder:
    """The format of a folder whose ``columns`` are named so: ours -> theirs."""

    columns: Mapping[str, str]

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the data files of a split, in order.

        Raises:
            DataError: the folder holds no such split.
        """
        state = root / split / "state.json"
        if state.is_file():
            try:
                names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{state}: expected JSON with a list _data_files of objects with filename") from None
            if any(not isinstance(name, str) or Path(name).name != name for name in names):
                raise DataError(f"{state}: _data_files: expected names of files in this folder")
            return tuple(state.parent / name for name in names)
        for folder in (root / "data", root):
            shards = [p for p in folder.glob("*.parquet") if p.stem == split or p.stem.startswith(f"{split}-")]
            if shards:
                return tuple(sorted(shards))
        expected = f"{split}/state.json (of save_to_disk), or {split}-*.parquet there or in data/"
        raise DataError(f"{root}: no split {split!r}; expected {expected}")

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield the rows of all files of a split, with the named columns put in place.

        Raises:
            DataError: a file cannot be read, or has no such column; names file and row.
        """
        number = 0
        for path in self.files(root, split):
            for row in arrow.read(path):
                number += 1
                named = {ours: _find(row, ours, theirs) for ours, theirs in self.columns.items()}
                # Without an id of its own, a row is known by its number in the split: each file counts from 1.
                yield Record(path, row.place, {"id": f"row-{number}"} | dict(row.fields) | named)


def _find(row: Record, ours: str, theirs: str) -> Any:
    value: Any = row.fields
    for part in theirs.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, list) and all(isinstance(item, Mapping) and part in item for item in value):
            value = [item[part] for item in value]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            have = ", ".join(row.fields)
            raise DataError(f"{row.where}: column {theirs!r}, named as {ours}: no {part!r} (columns: {have})")
    return value
