"""COCO-QA: questions made from the captions of COCO photos, with one-word answers.

Ren et al., "Exploring Models and Data for Image Question Answering", NeurIPS 2015 (arXiv 1505.02074). Layout of the
release of 2015-05-17: four text files per split with corresponding lines, beside the images of COCO 2014::

    train/questions.txt     what is the color of the horses
    train/answers.txt       brown
    train/img_ids.txt       9
    train/types.txt         2                (0 object, 1 number, 2 color, 3 location)
    train2014/COCO_train2014_000000000009.jpg
    val2014/COCO_val2014_000000000042.jpg    (for test)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.example import DataError

PARTS = ("questions", "answers", "img_ids", "types")
KINDS = ("object", "number", "color", "location")
#: Split -> the part of COCO 2014 that holds its images.
IMAGES = {"train": "train2014", "test": "val2014"}


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the four text files."""
    return tuple(root / split / f"{part}.txt" for part in PARTS)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per line, with its one right answer.

    Raises:
        DataError: the files differ in length or are not UTF-8; names the file and line.
    """
    paths = files(root, split)
    for rows in zip_longest(*map(_lines, paths)):
        question, answer, image, kind = rows
        for path, row in zip(paths, rows, strict=True):
            if row is None:
                longer = next(row for row in rows if row is not None)
                raise DataError(f"{path}: ends before {longer.place}, which {longer.path} has")
        folder = IMAGES[split]
        fields = {
            "image": Below(folder, f"COCO_{folder}_{_number(image, 'img_ids'):012d}.jpg"),
            "question": question.text("questions"),
            "answers": answer.text("answers"),
            "kind": KINDS[_number(kind, "types", len(KINDS))],
        }
        yield Record(question.path, question.place, fields)


def _lines(path: Path) -> Iterator[Record]:
    """Yield the lines of a file as records with one field named after the file."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield Record(path, f"line {number}", {path.stem: line})
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number + 1} or later: not UTF-8 text: {error.reason}") from None


def _number(record: Record, part: str, count: int | None = None) -> int:
    text = record.text(part)
    if not text.isdecimal() or len(text) > 18 or (count is not None and int(text) >= count):
        expected = "a whole number" if count is None else f"0 to {count - 1}"
        raise DataError(f"{record.where}: {part}: expected {expected}, got {text!r}")
    return int(text)
