"""Hugging Face ``datasets``: folders of Parquet shards or written by ``save_to_disk``, and datasets of the Hub.

Files of a split named ``train`` (huggingface.co/docs/datasets, "Main classes" and "Structure your repository")::

    data/train-00000-of-00002.parquet, ...    or the same without data/, or train.parquet
    train/state.json, train/data-00000-of-00001.arrow, ...                  (save_to_disk)

A mapping from our columns to theirs names the columns: ``{"question": "q", "answers": "answers.answer"}``. A dot
reaches into a struct, or into every struct of a list; a number after a dot takes one item of a list (``pair.0``). In a
dataset of the Hub, columns that are not named are guessed by their names, and image columns by their type.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.data.cache import image_key
from feddat.data.readers import arrow
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.records import COLUMNS, Record
from feddat.data.readers.values import listed
from feddat.example import DataError

log = logging.getLogger(__name__)

#: Our column -> its names in datasets, the likeliest first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "images", "img", "picture", "image_path", "file_name"),
    "image2": ("image2", "image_2", "right_image"),
    "question": ("question", "questions", "query", "sentence", "hypothesis", "text", "prompt"),
    "answers": ("answers", "answer", "multiple_choice_answer", "gt_answer", "label"),
    "choices": ("choices", "options", "answer_choices"),
    "label": ("label", "answer_label", "gold_label"),
}


@dataclass(frozen=True)
class Folder:
    """The format of a folder or dataset with the given columns.

    Attributes:
        columns: our column -> theirs.
        shards: split -> its files, for a dataset of the Hub; ``None``: search the folder.
        task: key of :data:`~feddat.data.readers.records.COLUMNS`; its columns are guessed if there are shards.
    """

    columns: Mapping[str, str]
    shards: Mapping[str, tuple[Path, ...]] | None = None
    task: str = "vqa"

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the data files of a split, in order.

        Raises:
            DataError: the folder holds no such split.
        """
        if self.shards is not None:
            return self.shards[split]
        state = root / split / "state.json"
        if state.is_file():
            try:
                names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DataError(f"{state}: expected JSON with a list _data_files of objects with filename") from None
            if any(not isinstance(name, str) or Path(name).name != name for name in names):
                raise DataError(f"{state}: _data_files: expected names of files in this folder")
            return tuple(state.parent / name for name in names)
        for folder in (root / "data", root):
            shards = [p for p in folder.glob("*.parquet") if p.stem == split or p.stem.startswith(f"{split}-")]
            if shards:
                return tuple(sorted(shards))
        expected = f"{split}/state.json (from save_to_disk), or {split}-*.parquet there or in data/"
        raise DataError(f"{root}: no split {split!r}; expected {expected}")

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield the rows of all files of a split, with the named columns renamed to ours.

        Raises:
            DataError: a file cannot be read or lacks a named column; names file and row.
        """
        number = 0
        files = self.files(root, split)
        columns = dict(self.columns) if self.shards is None else guess_columns(files[0], self.columns, self.task)
        pictures: dict[bytes, bytes] = {}
        for path in files:
            for row in arrow.read(path):
                number += 1
                fields = dict(row.fields)
                if self.shards is not None and "id" in fields and "id" not in columns:
                    fields["their_id"] = fields.pop("id")  # often the id of the image, which questions share
                named = {ours: _find(row, ours, theirs) for ours, theirs in columns.items()}
                for ours in ("image", "image2"):
                    if ours in named:
                        named[ours] = _once(named[ours], pictures)
                answer = (fields | named).get("answers")
                if self.task == "vqa" and KIND not in fields and isinstance(answer, str):
                    named[KIND] = answer_kind(None, answer)
                # A row without an id gets its number in the split, since each file counts from 1.
                yield Record(path, row.place, {"id": f"row-{number}"} | fields | named)


def guess_columns(path: Path, given: Mapping[str, str], task: str) -> dict[str, str]:
    """Return the columns of a Parquet file that a task needs: ours -> theirs, as given or guessed.

    Raises:
        DataError: the file cannot be read, or no column looks like one that the task needs.
    """
    kinds = arrow.column_kinds(path)
    found = dict(given)
    for ours in COLUMNS[task]:
        if ours in found:
            continue
        theirs = _likeliest(ours, kinds, set(found.values()))
        if theirs is None:
            have = ", ".join(kinds)
            raise DataError(f"{path}: no column looks like {ours!r} (columns: {have}); name it under columns")
        found[ours] = theirs
    if guessed := [f"{ours}={theirs}" for ours, theirs in found.items() if ours not in given]:
        log.info("%s: columns taken as %s", path.name, ", ".join(guessed))
    return found


def _likeliest(ours: str, kinds: Mapping[str, str], taken: Iterable[str]) -> str | None:
    lower = {name.lower(): name for name in kinds if name not in taken}
    named = [lower[name] for name in NAMES[ours] if name in lower]
    if ours in ("image", "image2"):
        pictures = [name for name in (*named, *lower.values()) if kinds[name].startswith("image")]
        named = pictures or named
    if not named:
        return None
    return f"{named[0]}.0" if kinds[named[0]] == "images" else named[0]


def _once(value: Any, pictures: dict[bytes, bytes]) -> Any:
    """Return the first object with the same bytes, so that questions about one picture share them in memory."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes) or not data:
        return value
    return pictures.setdefault(image_key(data), data)


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
            have = listed(row.fields)
            raise DataError(f"{row.where}: column {theirs!r}, named as {ours}: no {part!r} (columns: {have})")
    return value
