"""PMC-VQA: multiple-choice questions about figures of medical articles.

Zhang et al., "PMC-VQA: Visual Instruction Tuning for Medical Visual Question Answering", 2023 (arXiv 2305.10415).
Files as published on the Hub (``xmcmic/PMC-VQA``), the first version or the second (``_2``)::

    train.csv, test.csv     Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label
                            PMC1064097_F1.jpg,What ...?,CT," A: X-ray"," B: CT",...,B
    images/PMC1064097_F1.jpg, or images.zip (second version: images_2.zip), which need not be unpacked

In some files the columns ``Answer`` and ``Answer_label`` are swapped; the reader uses the one that holds a letter. It
removes the letter at the start of each choice. The task is to pick the right one of four choices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import csv
from feddat.data.readers.archive import Pictures
from feddat.data.readers.records import Record
from feddat.example import DataError

LETTERS = "ABCD"
_MARK = re.compile(r"^\s*[A-D]\s*[:.)]\s*")


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the questions file: the first version's, or the second version's if only that exists."""
    first = root / f"{split}.csv"
    second = root / f"{split}_2.csv"
    return (second if second.is_file() and not first.is_file() else first,)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with its four choices and the index of the right choice."""
    (path,) = files(root, split)
    pictures = Pictures(root, "images", ("images.zip", "images_2.zip"))
    record = None
    for record in csv.read(path):
        cells = (str(record.fields.get(name) or "").strip() for name in ("Answer_label", "Answer"))
        letter = next((cell for cell in cells if len(cell) == 1 and cell in LETTERS), None)
        if letter is None:
            raise DataError(f"{record.where}: neither Answer_label nor Answer is one of the letters {LETTERS}")
        yield Record(
            path,
            record.place,
            {
                "image": pictures.get(record.text("Figure_path")),
                "question": record.text("question"),
                "choices": [_MARK.sub("", record.text(f"Choice {one}")) for one in LETTERS],
                "label": LETTERS.index(letter),
            },
        )
    if record is None:
        raise DataError(f"{path}: expected a header and rows of questions")
