"""VCR, question to answer: a question about people in a film still, and four answers.

Zellers et al., "From Recognition to Cognition: Visual Commonsense Reasoning", CVPR 2019 (arXiv 1811.10830). Format as
documented on visualcommonsense.com/download, annotations and images unpacked side by side::

    train.jsonl       {"annot_id": "train-0", "img_fn": "lsmdc_3015/a@0.jpg", "objects": ["person", "person", "car"],
                       "question": ["Does", [1], "like", [0, 2], "?"], "answer_choices": [four such lists],
                       "answer_label": 1, ...}
    vcr1images/lsmdc_3015/a@0.jpg

A list of numbers refers to detected objects; ``objects`` names their kinds, as the image's metadata file does beside
their boxes. The reader writes it out as "person 1 and car 3", counting from 1 like the numbers that the annotators saw.
The images are read as they are, without boxes drawn into them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from feddat.data.readers import jsonl
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.example import DataError


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the annotations file."""
    return (root / f"{split}.jsonl",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with its four answers."""
    (path,) = files(root, split)
    for record in jsonl.read(path):
        objects = record.items("objects")
        choices = enumerate(record.items("answer_choices"), 1)
        fields = {
            "id": record.text("annot_id"),
            "image": Below("vcr1images", record.text("img_fn")),
            "question": words(record, "question", record.items("question"), objects),
            "choices": [words(record, f"answer choice {number}", choice, objects) for number, choice in choices],
            "label": record.whole("answer_label"),
            "movie": record.fields.get("movie"),
        }
        yield Record(path, record.place, fields)


def words(record: Record, name: str, tokens: Any, objects: Sequence[Any]) -> str:
    """Return tokens as text, with references to objects written out: ``[0, 2]`` becomes "person 1 and car 3".

    Raises:
        DataError: a token is neither a word nor a list of numbers, or refers to no object.
    """
    if not isinstance(tokens, list) or not tokens:
        raise DataError(f"{record.where}: {name}: expected a list of words, got {tokens!r}")
    return " ".join(token if isinstance(token, str) else _named(record, name, token, objects) for token in tokens)


def _named(record: Record, name: str, references: Any, objects: Sequence[Any]) -> str:
    if not isinstance(references, list) or not references:
        raise DataError(f"{record.where}: {name}: expected words and lists of object numbers, got {references!r}")
    found = []
    for number in references:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(objects):
            raise DataError(f"{record.where}: {name}: object {number!r}: expected 0 to {len(objects) - 1}")
        found.append(f"{objects[number]} {number + 1}")
    *first, last = found
    return f"{', '.join(first)} and {last}" if first else last
