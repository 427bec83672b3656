"""COCO captions: pictures, each described by about five sentences.

Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", 2015 (arXiv 1504.00325). Files as
documented on cocodataset.org, archives unpacked side by side; the file's name says the split::

    annotations/captions_train2014.json
        {"images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}], "annotations": [
            {"id": 1, "image_id": 9, "caption": "A plate of food."}]}
    train2014/COCO_train2014_000000000009.jpg

Every picture is one example. Its question is always the same, and each of its captions is a right answer. The format is
meant for models that write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.example import DataError

QUESTION = "What is in this picture?"


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the annotations file."""
    return (root / "annotations" / f"captions_{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per picture, with all its captions."""
    (path,) = files(root, split)
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for record in large_json.elements(path, "annotations"):
        captions[record.whole("image_id")].append(record.text("caption"))
    for record in large_json.elements(path, "images"):
        number = record.whole("id")
        if number not in captions:
            skipped["without a caption"] += 1
            continue
        answers = dict.fromkeys(captions.pop(number), 1.0)
        fields = {"id": number, "image": Below(split, record.text("file_name")), "question": QUESTION}
        yield Record(path, record.place, fields | {"answers": answers})
    for number in captions:
        raise DataError(f"{path}: a caption names image {number}, which is not among the images")
