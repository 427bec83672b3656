"""VQA v2 and the Abstract Scenes of VQA v1: open-ended questions with ten annotators' answers each.

Antol et al., "VQA: Visual Question Answering", ICCV 2015 (arXiv 1505.00468); Goyal et al., "Making the V in VQA
Matter", CVPR 2017 (arXiv 1612.00837). Layout and formats as documented on visualqa.org/download, archives unpacked side
by side:

- questions: ``{"questions": [{"question_id": 9000, "image_id": 9, "question": "..."}]}``
- annotations: ``{"annotations": [{"question_id": 9000, "image_id": 9, "answers": [{"answer": "cat", ...}, ...]}]}``
- images: ``train2014/COCO_train2014_000000000009.jpg`` (VQA v2),
  ``scene_img_abstract_v002_train2015/abstract_v002_train2015_000000000009.png`` (Abstract Scenes)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feddat.data.readers import json_array
from feddat.data.readers.records import Record
from feddat.example import DataError


@dataclass(frozen=True)
class Layout:
    """Names below the root folder, as format strings of ``split`` and ``image``."""

    questions: str
    annotations: str
    image: str

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the questions file and the annotations file."""
        return root / self.questions.format(split=split), root / self.annotations.format(split=split)

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield one record per question, with its annotators' answers as votes."""
        for question, annotation in joined(*self.files(root, split)):
            meta = {key: annotation.fields.get(key) for key in ("question_type", "answer_type")}
            fields = {
                "id": question.whole("question_id"),
                "image": self.image.format(split=split, image=question.whole("image_id")),
                "question": question.text("question"),
                "answers": votes(annotation),
            }
            yield Record(annotation.path, annotation.place, fields | meta)


V2 = Layout(
    "v2_OpenEnded_mscoco_{split}2014_questions.json",
    "v2_mscoco_{split}2014_annotations.json",
    "{split}2014/COCO_{split}2014_{image:012d}.jpg",
)
ABSTRACT = Layout(
    "OpenEnded_abstract_v002_{split}2015_questions.json",
    "abstract_v002_{split}2015_annotations.json",
    "scene_img_abstract_v002_{split}2015/abstract_v002_{split}2015_{image:012d}.png",
)


def votes(record: Record) -> list[str]:
    """Return the annotators' answers of a record: ``answers`` is a list of objects with an ``answer`` each."""
    found = [item.get("answer") if isinstance(item, dict) else None for item in record.items("answers")]
    for number, answer in enumerate(found, 1):
        if not isinstance(answer, str):
            raise DataError(f"{record.where}: answer {number} of {len(found)}: expected text, got {answer!r}")
    return [str(answer) for answer in found]


def joined(questions: Path, annotations: Path) -> Iterator[tuple[Record, Record]]:
    """Yield each question beside the annotation of the same ``question_id``.

    The published files are in the same order, so both are read side by side; whatever is out of step waits in memory.

    Raises:
        DataError: a question has no annotation, or an annotation no question.
    """
    waiting: tuple[dict[int, Record], dict[int, Record]] = ({}, {})
    streams = (json_array.read(questions, "questions"), json_array.read(annotations, "annotations"))
    live = True
    while live:
        live = False
        for side, stream in enumerate(streams):
            record = next(stream, None)
            if record is None:
                continue
            live = True
            key = record.whole("question_id")
            other = waiting[1 - side].pop(key, None)
            if other is not None:
                yield (record, other) if side == 0 else (other, record)
            elif key in waiting[side]:
                raise DataError(f"{record.where}: duplicate question_id {key}")
            else:
                waiting[side][key] = record
    for left, missing in ((waiting[0], annotations), (waiting[1], questions)):
        for key, record in left.items():
            raise DataError(f"{record.where}: question_id {key} is not in {missing}")
