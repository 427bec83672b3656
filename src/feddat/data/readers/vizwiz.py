"""VizWiz-VQA: photos that blind people took, their spoken questions, and ten annotators' answers each.

Gurari et al., "VizWiz Grand Challenge: Answering Visual Questions from Blind People", CVPR 2018 (arXiv 1802.08218).
Format as documented on vizwiz.org/tasks-and-datasets/vqa, archives unpacked side by side::

    Annotations/train.json    [{"image": "VizWiz_train_00000000.jpg", "question": ..., "answer_type": ...,
                                "answerable": 0, "answers": [{"answer": ..., "answer_confidence": "maybe"}]}]
    train/VizWiz_train_00000000.jpg

As in the published evaluation, "unanswerable" and "unsuitable" are ordinary answers, and the annotators' confidence
does not count. There is one question per image, so the image's name without suffix is the example's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.data.readers.vqa_answers import votes


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the annotations file."""
    return (root / "Annotations" / f"{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with its annotators' answers as votes."""
    (path,) = files(root, split)
    for record in large_json.elements(path):
        image = record.text("image")
        fields = {
            "id": Path(image).stem,
            "image": Below(split, image),
            "question": record.text("question"),
            "answers": votes(record),
        }
        meta = {key: record.fields.get(key) for key in ("answer_type", "answerable")}
        yield Record(path, record.place, fields | meta)
