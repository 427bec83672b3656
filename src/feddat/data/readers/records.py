"""Convert a record of a file of any format to an :class:`~feddat.example.Example`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from feddat.data.readers.answers import read_answers
from feddat.data.readers.image_folder import Below, ImageFolder, OutsideError
from feddat.data.readers.values import as_text, as_whole, is_missing, is_single, listed, shown
from feddat.example import LABELS, VCR_CHOICES, DataError, Example, Image
from feddat.text import did_you_mean, normal_text


class SkippableError(DataError):
    """A record holds nothing to learn or score, so it is left out and counted.

    Attributes:
        reason: reason for the count, e.g. ``without an answer``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class MissingImageError(SkippableError):
    """A record names no image, or an image file that does not exist; left out only with ``skip_missing``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "with a missing image")


#: Task -> the columns that a record must have; ``id`` is optional, and all others become ``meta``.
COLUMNS: dict[str, tuple[str, ...]] = {
    "vqa": ("image", "question", "answers"),
    "nlvr2": ("image", "image2", "question", "label"),
    "snli-ve": ("image", "question", "label"),
    "vcr": ("image", "question", "choices", "label"),
}
#: Values that mean "no label", besides null: SNLI's own, and the one in datasets on the Hub.
UNLABELLED = ("-", -1)
#: Key for the number of blank votes, beside the reasons for skipped records.
BLANK_VOTES = "blank votes"
_KNOWN = frozenset({"id", *(column for columns in COLUMNS.values() for column in columns)})


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes:
        path: the file.
        place: place in the file, for messages: ``line 3`` or ``row 3``.
        fields: column name -> value.
    """

    path: Path
    place: str
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        """File and place, for the beginning of a message."""
        return f"{self.path}, {self.place}"

    def text(self, column: str) -> str:
        """Return the text of a column without surrounding space.

        Raises:
            DataError: the value is not text, or it is blank.
        """
        value = self.fields.get(column)
        if not isinstance(value, str) or is_missing(value):
            raise DataError(f"{self.where}: {column}: expected text, got {shown(value)}")
        return normal_text(value).strip()

    def whole(self, column: str) -> int:
        """Return the whole number of a column, at least 0.

        Raises:
            DataError: the value is not such a number.
        """
        value = self.fields.get(column)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{self.where}: {column}: expected a whole number, got {shown(value)}")
        return value

    def identifier(self, column: str) -> str:
        """Return the text or whole number of a column, as text.

        Raises:
            DataError: the value is neither.
        """
        value = self.fields.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DataError(f"{self.where}: {column}: expected text or a whole number, got {shown(value)}")
        return str(value)

    def items(self, column: str) -> list[Any]:
        """Return the list of a column.

        Raises:
            DataError: the value is not a list, or it is empty.
        """
        value = self.fields.get(column)
        if not isinstance(value, list) or not value:
            raise DataError(f"{self.where}: {column}: expected a list, got {shown(value)}")
        return value


def is_column(name: str) -> bool:
    """Return whether readers know a column of this name."""
    return name in _KNOWN


@lru_cache(maxsize=256)
def canonical_columns(names: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of columns, with the names that readers know in their usual form: "Question " is ``question``.

    A name does not change if another column already has the usual form.
    """
    given = {str(name) for name in names}
    usual = ((str(name), normal_text(str(name)).strip().lower()) for name in names)
    return tuple(plain if plain in _KNOWN and plain not in given else name for name, plain in usual)


def spellings(column: str) -> tuple[str, ...]:
    """Return a column's name as given, and as readers change it in the header of a table."""
    plain = normal_text(column).strip()
    return tuple(dict.fromkeys((column, plain, *(name for name in [plain.lower()] if name in _KNOWN))))


def to_example(record: Record, task: str, folder: ImageFolder | Path, skipped: Counter[str] | None = None) -> Example:
    """Return the example of one record, whose images are in ``folder``; if that is a path, no image may be outside it.

    :mod:`feddat.data.readers.answers` explains the forms of ``answers``. Blank votes are counted in ``skipped``.

    Raises:
        MissingImageError: there is no image, or its file does not exist.
        SkippableError: there is no question, answer or label.
        DataError: a column is missing or of the wrong type, or an image is outside the folder.
    """
    names = canonical_columns(tuple(record.fields))
    fields = dict(zip(names, record.fields.values(), strict=True))
    if len(fields) < len(names):
        raise DataError(f"{record.where}: a column occurs twice: {listed(record.fields)}")
    record = replace(record, fields=fields)
    folder = ImageFolder(folder) if isinstance(folder, Path) else folder
    for column in COLUMNS[task]:
        if column not in fields:
            have = listed(fields) or "none"
            hint = did_you_mean(column, (name for name in fields if name not in _KNOWN))
            raise DataError(f"{record.where}: column {column!r} is missing (columns: {have}){hint}")
    choices = _choices(record) if task == "vcr" else ()
    used = {"id", *COLUMNS[task]}
    return Example(
        id=_id(record),
        text=_question(record),
        answers=_answers(record, skipped) if task == "vqa" else {},
        choices=choices,
        label=None if task == "vqa" else _label(record, task),
        images=tuple(_image(record, column, folder) for column in ("image", "image2") if column in COLUMNS[task]),
        meta={
            normal_text(key): normal_text(str(value))
            for key, value in fields.items()
            if key not in used and isinstance(value, str | int | float)
        },
    )


def to_examples(
    records: Iterable[Record], task: str, folder: ImageFolder, skip_missing: bool, skipped: Counter[str]
) -> Iterator[Example]:
    """Yield the example of every usable record.

    Args:
        records: the records.
        task: key in :data:`COLUMNS`.
        folder: folder of their images.
        skip_missing: skip records whose image is missing, and count them in ``skipped``, instead of raising.
        skipped: reason -> number of records skipped for it; :data:`BLANK_VOTES` -> blank votes in the records kept.

    Raises:
        DataError: a record cannot be used, or has the same id as another record.
    """
    places: dict[str, str] = {}
    for record in records:
        blank: Counter[str] = Counter()
        try:
            example = to_example(record, task, folder, blank)
        except MissingImageError as error:
            if not skip_missing:
                raise
            skipped[error.reason] += 1
            continue
        except SkippableError as error:
            skipped[error.reason] += 1
            continue
        if example.id in places:
            raise DataError(f"{record.where}: duplicate id {shown(example.id)}, first used in {places[example.id]}")
        places[example.id] = record.place
        skipped.update(blank)
        yield example


def _id(record: Record) -> str:
    value = record.fields.get("id")
    if is_missing(value):
        return record.place.replace(" ", "-")
    whole = as_whole(value)
    if isinstance(value, float) and whole is not None:
        return str(whole)
    return normal_text(record.identifier("id"))


def _question(record: Record) -> str:
    value = record.fields["question"]
    if is_missing(value):
        raise SkippableError(f"{record.where}: question: expected text, got {shown(value)}", "without a question")
    if not is_single(value):
        raise DataError(f"{record.where}: question: expected text, got {shown(value)}")
    return as_text(value)


def _image(record: Record, column: str, folder: ImageFolder) -> Image:
    value: Any = record.fields[column]
    below = ""
    if isinstance(value, Below):
        below, value = value.folder, value.name
    if isinstance(value, Mapping):  # the form of images in Hugging Face datasets
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    expected = "the name or the bytes of an image"
    if is_missing(value) or value == b"":
        hint = "; set skip_missing: true to leave such records out"
        raise MissingImageError(f"{record.where}: {column}: expected {expected}, got {shown(value)}{hint}")
    if not isinstance(value, str):
        raise DataError(f"{record.where}: {column}: expected {expected}, got {shown(value)}")
    try:
        path = folder.find(value.strip(), below)
    except OutsideError as error:
        raise DataError(f"{record.where}: {column}: {shown(value)} {error}") from None
    if path is None:
        named = listed([folder.path / below / value.strip()])
        raise MissingImageError(f"{record.where}: {column}: no such image file: {named}")
    return path


def _answers(record: Record, skipped: Counter[str] | None) -> dict[str, float]:
    try:
        scores, blank = read_answers(record.fields["answers"])
    except ValueError as error:
        raise DataError(f"{record.where}: answers: {error}") from None
    if not scores:
        raise SkippableError(f"{record.where}: answers: expected an answer, got none", "without an answer")
    if blank and skipped is not None:
        skipped[BLANK_VOTES] += blank
    return scores


def _choices(record: Record) -> tuple[str, ...]:
    value = record.fields["choices"]
    usable = isinstance(value, list) and all(is_single(choice) and not is_missing(choice) for choice in value)
    if not usable or len(value) != VCR_CHOICES:
        raise DataError(f"{record.where}: choices: expected a list of {VCR_CHOICES} texts, got {shown(value)}")
    return tuple(map(as_text, value))


def _label(record: Record, task: str) -> int:
    value = record.fields["label"]
    names = LABELS.get(task, ())
    classes = len(names) or VCR_CHOICES
    text = as_text(value).lower() if is_single(value) else None
    index = names.index(text) if text in names else as_whole(value)
    if is_missing(value) or text in UNLABELLED or index in UNLABELLED:
        raise SkippableError(f"{record.where}: label: expected a label, got none", "without a label")
    if index is None or not 0 <= index < classes:
        expected = f"0 to {classes - 1}" + (f" or one of {', '.join(names)}" if names else "")
        raise DataError(f"{record.where}: label: expected {expected}, got {shown(value)}")
    return index
