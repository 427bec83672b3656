"""NLVR2: is a sentence true of a pair of photos?

Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019 (arXiv 1811.00491).
Format as documented in github.com/lil-lab/nlvr; its folder ``nlvr2`` is beside the images::

    nlvr2/data/train.json           a JSON object per line: {"identifier": "train-10171-0-0", "directory": 34,
                                                             "sentence": ..., "label": "True"}
    images/train/34/train-10171-0-img0.png    the left image; img1 is the right one
    dev/dev-850-0-img0.png
    test1/test1-0-0-img0.png

The identifier is split-set-pair-sentence: both sentences of a pair share its images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import jsonl
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.example import DataError


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the annotations file."""
    return (root / "nlvr2" / "data" / f"{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per sentence."""
    (path,) = files(root, split)
    for record in jsonl.read(path):
        identifier = record.text("identifier")
        pair, dash, _ = identifier.rpartition("-")
        if not dash:
            expected = "expected split-set-pair-sentence"
            raise DataError(f"{record.where}: identifier: {expected}, got {identifier!r}")
        folder, below = ("images/train", f"{record.identifier('directory')}/") if split == "train" else (split, "")
        fields = {
            "id": identifier,
            "image": Below(folder, f"{below}{pair}-img0.png"),
            "image2": Below(folder, f"{below}{pair}-img1.png"),
            "question": record.text("sentence"),
            "label": record.fields.get("label"),
        }
        yield Record(path, record.place, fields)
