"""From one record of a file, whatever its format, to an :class:`~feddat.example.Example`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from feddat.data.readers.image_folder import Below, ImageFolder, OutsideError
from feddat.example import DataError, Example, Image


class MissingImageError(DataError):
    """A record names an image file that does not exist."""


#: Task -> the columns that a record must have; ``id`` is optional, and all others become ``meta``.
COLUMNS: dict[str, tuple[str, ...]] = {
    "vqa": ("image", "question", "answers"),
    "nlvr2": ("image", "image2", "question", "label"),
    "snli-ve": ("image", "question", "label"),
    "vcr": ("image", "question", "choices", "label"),
}
#: Task -> label names in index order; a label may be written as its name or its index.
LABELS: dict[str, tuple[str, ...]] = {
    "nlvr2": ("false", "true"),
    "snli-ve": ("entailment", "neutral", "contradiction"),
}
VCR_CHOICES = 4


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes:
        path: the file.
        place: where in it, for messages: ``line 3`` or ``row 3``.
        fields: column name -> value.
    """

    path: Path
    place: str
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        """Return file and place, as messages begin."""
        return f"{self.path}, {self.place}"

    def text(self, column: str) -> str:
        """Return a text that is not blank, without surrounding space."""
        value = self.fields.get(column)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: {column}: expected text, got {_shown(value)}")
        return value.strip()

    def whole(self, column: str) -> int:
        """Return a whole number of at least 0."""
        value = self.fields.get(column)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{self.where}: {column}: expected a whole number, got {_shown(value)}")
        return value

    def identifier(self, column: str) -> str:
        """Return a text or a whole number as text."""
        value = self.fields.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DataError(f"{self.where}: {column}: expected text or a whole number, got {_shown(value)}")
        return str(value)

    def items(self, column: str) -> list[Any]:
        """Return a list that is not empty."""
        value = self.fields.get(column)
        if not isinstance(value, list) or not value:
            raise DataError(f"{self.where}: {column}: expected a list, got {_shown(value)}")
        return value


def to_example(record: Record, task: str, folder: ImageFolder | Path) -> Example:
    """Return the example of one record, whose images are in ``folder``; of a path, they may not be outside it.

    Answers are compared in lower case with single spaces. A list of answers holds annotators' votes, worth
    min(1, 0.3 x votes) each as in VQA; a single text is the one right answer (score 1); a mapping gives scores itself.

    Raises:
        MissingImageError: an image file does not exist.
        DataError: a column is missing or of the wrong type, or an image lies elsewhere.
    """
    fields = record.fields
    folder = ImageFolder(folder) if isinstance(folder, Path) else folder
    for column in COLUMNS[task]:
        if fields.get(column) is None:
            have = ", ".join(str(key) for key in fields) or "none"
            raise DataError(f"{record.where}: column {column!r} is missing or empty (columns: {have})")
    choices = _choices(record) if task == "vcr" else ()
    names = [column for column in ("image", "image2") if column in COLUMNS[task]]
    used = {"id", *COLUMNS[task]}
    return Example(
        id=_id(record),
        images=tuple(_image(record, column, folder) for column in names),
        text=record.text("question"),
        answers=_answers(record) if task == "vqa" else {},
        choices=choices,
        label=None if task == "vqa" else _label(record, task),
        meta={str(k): str(v) for k, v in fields.items() if k not in used and isinstance(v, str | int | float)},
    )


def to_examples(
    records: Iterable[Record], task: str, folder: ImageFolder, skip_missing: bool, skipped: Counter[str]
) -> Iterator[Example]:
    """Yield the example of every record.

    Args:
        records: the records.
        task: key in :data:`COLUMNS`.
        folder: where their images are.
        skip_missing: skip records whose image file is missing, and count them in ``skipped``, instead of raising.
        skipped: why records were skipped -> how many.

    Raises:
        DataError: a record cannot be used, or has the id of another one.
    """
    places: dict[str, str] = {}
    for record in records:
        try:
            example = to_example(record, task, folder)
        except MissingImageError:
            if not skip_missing:
                raise
            skipped["with a missing image"] += 1
            continue
        if example.id in places:
            raise DataError(f"{record.where}: duplicate id {example.id!r}, first used in {places[example.id]}")
        places[example.id] = record.place
        yield example


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """Return the answer in lower case with single spaces and no space around it."""
    return " ".join(answer.lower().split())


def _id(record: Record) -> str:
    return record.place.replace(" ", "-") if record.fields.get("id") is None else record.identifier("id")


def _shown(value: Any) -> str:
    """Return the start of a value as messages show it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _image(record: Record, column: str, folder: ImageFolder) -> Image:
    value: Any = record.fields[column]
    below = ""
    if isinstance(value, Below):
        below, value = value.folder, value.name
    if isinstance(value, Mapping):  # as Hugging Face datasets hold images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{record.where}: {column}: expected the name or the bytes of an image, got {_shown(value)}")
    try:
        path = folder.find(value.strip(), below)
    except OutsideError as error:
        raise DataError(f"{record.where}: {column}: {_shown(value)} {error}") from None
    if path is None:
        raise MissingImageError(f"{record.where}: {column}: no such image file: {folder.path / below / value.strip()}")
    return path


def _answers(record: Record) -> dict[str, float]:
    value = record.fields["answers"]
    if isinstance(value, str):
        scores = {value: 1.0}
    elif isinstance(value, list) and value and all(isinstance(answer, str) for answer in value):
        # Votes are counted after normalisation: "Red" and "red" are two votes for one answer.
        scores = {answer: min(1.0, votes * 3 / 10) for answer, votes in Counter(map(normalise, value)).items()}
    elif isinstance(value, Mapping) and value:
        scores = {}
        for answer, score in value.items():
            number = isinstance(score, int | float) and not isinstance(score, bool)
            if not number or not math.isfinite(score) or not 0 <= score <= 1:
                raise DataError(f"{record.where}: answers: score of {answer!r} must be in [0, 1], got {score!r}")
            scores[str(answer)] = max(float(score), scores.get(str(answer), 0.0))
    else:
        expected = "a text, a list of texts, or a mapping from answer to score"
        raise DataError(f"{record.where}: answers: expected {expected}, got {value!r}")
    merged: dict[str, float] = {}
    for answer, score in scores.items():
        key = normalise(answer)
        if not key:
            raise DataError(f"{record.where}: answers: an answer is empty")
        merged[key] = max(score, merged.get(key, 0.0))
    return merged


def _choices(record: Record) -> tuple[str, ...]:
    value = record.fields["choices"]
    if not isinstance(value, list) or len(value) != VCR_CHOICES or not all(isinstance(c, str) and c for c in value):
        raise DataError(f"{record.where}: choices: expected a list of {VCR_CHOICES} texts, got {value!r}")
    return tuple(value)


def _label(record: Record, task: str) -> int:
    value = record.fields["label"]
    names = LABELS.get(task, ())
    classes = len(names) or VCR_CHOICES
    index: int | None = None
    if isinstance(value, bool):
        index = names.index(str(value).lower()) if str(value).lower() in names else None
    elif isinstance(value, int):
        index = value
    elif isinstance(value, str):
        text = value.strip().lower()
        index = names.index(text) if text in names else int(text) if text.isdecimal() else None
    if index is None or not 0 <= index < classes:
        expected = f"0 to {classes - 1}" + (f" or one of {', '.join(names)}" if names else "")
        raise DataError(f"{record.where}: label: expected {expected}, got {value!r}")
    return index
