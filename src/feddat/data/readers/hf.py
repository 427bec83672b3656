"""Hugging Face ``datasets``: folders of Parquet shards or written by ``save_to_disk``, and datasets of the Hub.

Files of a split named ``train`` (huggingface.co/docs/datasets, "Main classes" and "Structure your repository")::

    data/train-00000-of-00002.parquet, ...    or the same without data/, or train.parquet, or as README.md says
    train/state.json, train/data-00000-of-00001.arrow, ...                  (save_to_disk)

A folder gives the same examples as the same files on the Hub. :mod:`feddat.data.readers.columns` says how a client
names columns. Those that it does not name are guessed by their names, and columns of pictures by their type.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.data.cache import image_key
from feddat.data.readers import arrow
from feddat.data.readers.columns import guess_columns, named
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.records import Record
from feddat.data.readers.shards import SUFFIX, find_shards
from feddat.example import DataError
from feddat.hub import HubError, folder_configs

log = logging.getLogger(__name__)

#: Split -> its files.
Shards = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Rows:
    """The format of the rows in the files of a dataset.

    Attributes:
        columns: our column -> theirs, as far as a client names them.
        shards: split -> its files.
        task: key of :data:`~feddat.data.readers.records.COLUMNS`.
    """

    columns: Mapping[str, str]
    shards: Shards
    task: str = "vqa"

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the files of a split, in order."""
        return self.shards[split]

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield the rows of all files of a split, with the columns renamed to ours.

        Raises:
            DataError: a file cannot be read or lacks a column; names file and row.
        """
        number = 0
        files = self.files(root, split)
        columns = guess_columns(files[0], self.columns, self.task)
        pictures: dict[bytes, bytes] = {}
        for path in files:
            for row in arrow.read(path):
                number += 1
                fields = dict(row.fields)
                if "id" in fields and "id" not in columns:
                    fields["their_id"] = fields.pop("id")  # often the id of the image, which questions share
                ours = named(row, columns)
                for column in ("image", "image2"):
                    if column in ours:
                        ours[column] = _once(ours[column], pictures)
                answer = (fields | ours).get("answers")
                if self.task == "vqa" and KIND not in fields and isinstance(answer, str):
                    ours[KIND] = answer_kind(None, answer)
                # A row without an id gets its number in the split, since each file counts from 1.
                yield Record(path, row.place, {"id": f"row-{number}"} | fields | ours)


def folder_shards(root: Path) -> Shards:
    """Return the files of every split of a folder: as ``save_to_disk`` wrote them, or as a repository of the Hub.

    Raises:
        DataError: a file that lists the files of a split cannot be read.
    """
    states = sorted(root.glob("*/state.json"))
    if states:
        return {state.parent.name: _saved(state) for state in states}
    found = (path.relative_to(root) for path in root.rglob(f"*{SUFFIX}"))
    names = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    try:
        configs = folder_configs(root)
    except HubError as error:  # any folder can have a README.md
        log.warning("%s; the names of files tell the splits", error)
        configs = ()
    known = find_shards(names, configs)
    return {split: tuple(root / name for name in shards) for split, shards in known.items()}


def named_shards(root: Path, shards: Shards, split: str) -> tuple[Path, ...]:
    """Return the files of a split of a folder, which may also be the beginning of their names.

    Raises:
        DataError: there is no such split.
    """
    if split in shards:
        return shards[split]
    for folder in (root / "data", root):
        begin = [path for path in folder.glob(f"*{SUFFIX}") if path.stem == split or path.stem.startswith(f"{split}-")]
        if begin:
            return tuple(sorted(begin))
    expected = f"{split}/state.json (from save_to_disk), or {split}-*{SUFFIX} there or in data/"
    have = f"; splits are {', '.join(shards)}" if shards else ""
    raise DataError(f"{root}: no split {split!r}; expected {expected}{have}")


def _saved(state: Path) -> tuple[Path, ...]:
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{state}: expected JSON with a list _data_files of objects with filename") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise DataError(f"{state}: _data_files: expected names of files in this folder")
    if not names:
        raise DataError(f"{state}: _data_files names no file")
    return tuple(state.parent / name for name in names)


def _once(value: Any, pictures: dict[bytes, bytes]) -> Any:
    """Return the first object with the same bytes, so that questions about one picture share them in memory."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes) or not data:
        return value
    return pictures.setdefault(image_key(data), data)
