"""VQA v2 and the Abstract Scenes of VQA v1: open-ended questions with ten annotators' answers each.

Antol et al., "VQA: Visual Question Answering", ICCV 2015 (arXiv 1505.00468); Goyal et al., "Making the V in VQA
Matter", CVPR 2017 (arXiv 1612.00837). Formats as documented on visualqa.org/download, archives unpacked side by side::

    v2_OpenEnded_mscoco_train2014_questions.json    {"questions": [{"question_id": 9000, "image_id": 9, "question": ...
    v2_mscoco_train2014_annotations.json            {"annotations": [{"question_id": 9000, "answers": [{"answer": ...
    train2014/COCO_train2014_000000000009.jpg

and for Abstract Scenes, whose image archives contain no folder; unpack each into a folder of the archive's name::

    OpenEnded_abstract_v002_train2015_questions.json
    abstract_v002_train2015_annotations.json
    scene_img_abstract_v002_train2015/abstract_v002_train2015_000000000009.png
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record
from feddat.data.readers.vqa_answers import votes
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
                "image": Below(*self.image.format(split=split, image=question.whole("image_id")).split("/")),
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


def joined(questions: Path, annotations: Path) -> Iterator[tuple[Record, Record]]:
    """Yield each question with the annotation of the same ``question_id``.

    The published files are in the same order, so both are read side by side; records out of step wait in memory.

    Raises:
        DataError: a question has no annotation, or an annotation no question.
    """
    streams = (large_json.elements(questions, "questions"), large_json.elements(annotations, "annotations"))
    waiting: tuple[dict[int, Record], dict[int, Record]] = ({}, {})
    for pair in zip_longest(*streams):
        for side, record in enumerate(pair):
            if record is None:
                continue
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
