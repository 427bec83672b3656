"""VQA-RAD: questions that clinicians asked about radiology pictures, and their answers.

Lau et al., "A dataset of clinically generated visual questions and answers about radiology images", Scientific Data
2018, CC0. Files as published on osf.io/89kps::

    VQA_RAD Dataset Public.json
        [{"qid": "1", "phrase_type": "freeform", "qid_linked_id": ..., "image_name": "synpic54610.jpg",
          "image_organ": "CHEST", "question": ..., "question_type": "PRES", "answer": "yes",
          "answer_type": "CLOSED", ...}]
    VQA_RAD Image Folder/synpic54610.jpg

As in the publication, test questions have a ``phrase_type`` that begins with ``test`` (``test_freeform``,
``test_para``). Some answers are numbers. ``flaviagiammarino/vqa-rad`` on the Hub is the same dataset without duplicates
and without the kinds of questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.records import Record

FILE, FOLDER = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the one file, which holds both splits."""
    return (root / FILE,)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question of the split, with its one right answer."""
    (path,) = files(root, split)
    for record in large_json.elements(path):
        if str(record.fields.get("phrase_type") or "").startswith("test") != (split == "test"):
            continue
        given = record.fields.get("answer")
        answer = str(given) if isinstance(given, int | float) and not isinstance(given, bool) else record.text("answer")
        fields = {
            "id": record.identifier("qid"),
            "image": Below(FOLDER, record.text("image_name")),
            "question": record.text("question"),
            "answers": answer,
            KIND: answer_kind(record.fields.get("answer_type"), answer),
        }
        meta = {key: record.fields.get(key) for key in ("image_organ", "question_type", "phrase_type")}
        yield Record(path, record.place, fields | meta)
