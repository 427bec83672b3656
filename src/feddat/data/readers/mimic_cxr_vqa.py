"""MIMIC-CXR-VQA: questions made from scene graphs of chest X-rays, each with any number of right answers.

Bae et al., "EHRXQA: A Multi-Modal Question Answering Dataset for Electronic Health Records with Chest X-ray Images",
NeurIPS 2023 (arXiv 2310.18652). Files as published on PhysioNet (credentialed access, which you apply for yourself),
beside the pictures of MIMIC-CXR-JPG::

    train.json, valid.json, test.json
        [{"split": "train", "idx": 0, "subject_id": ..., "study_id": ..., "image_id": ..., "image_path":
          "p10/p10000032/s50414267/02aa804e-....jpg", "question": ..., "semantic_type": "verify",
          "content_type": "presence", "answer": ["yes"], "template": ..., ...}]
    files/p10/p10000032/s50414267/02aa804e-....jpg

Every answer in the list is right. An empty list means that nothing was found; its answer is ``none``. Questions of type
``verify`` are closed; ``choose`` and ``query`` are open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.medical import CLOSED, KIND, OPEN
from feddat.data.readers.records import Record
from feddat.example import DataError

NOTHING = "none"
#: Our split -> the published file's name.
FILES = {"train": "train", "validation": "valid", "test": "test"}


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the questions file."""
    return (root / f"{FILES[split]}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with all its right answers."""
    (path,) = files(root, split)
    for record in large_json.elements(path):
        answers = record.fields.get("answer")
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise DataError(f"{record.where}: answer: expected a list of texts, got {answers!r}")
        kind = record.fields.get("semantic_type")
        fields = {
            "id": record.identifier("idx"),
            "image": Below("files", record.text("image_path").removeprefix("files/")),
            "question": record.text("question"),
            "answers": dict.fromkeys(answers or [NOTHING], 1.0),
            KIND: CLOSED if kind == "verify" else OPEN,
        }
        meta = {key: record.fields.get(key) for key in ("semantic_type", "content_type")}
        yield Record(path, record.place, fields | meta)
