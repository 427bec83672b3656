"""SLAKE: questions about radiology pictures, in English (or Chinese), with modality, organ and kind of answer.

Liu et al., "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual Question Answering", ISBI 2021
(arXiv 2102.09542), CC BY 4.0. Files as published on med-vqa.com/slake and on the Hub (``BoKelvin/SLAKE``)::

    train.json, validation.json (or validate.json), test.json
        [{"img_id": 1, "img_name": "xmlab1/source.jpg", "question": ..., "answer": "MRI", "q_lang": "en",
          "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN", "base_type": "vqa",
          "content_type": "Modality", "triple": [...], "qid": 11934}]
    imgs/xmlab1/source.jpg, or imgs.zip, which need not be unpacked

Questions in languages other than English are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.archive import Pictures
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.records import Record

LANGUAGE = "en"


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the questions file; the file of the validation split has one of two names."""
    published = root / "validate.json"
    return (published if split == "validation" and published.is_file() else root / f"{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per English question, with its one right answer."""
    (path,) = files(root, split)
    pictures = Pictures(root, "imgs", ("imgs.zip",))
    for record in large_json.elements(path):
        if record.fields.get("q_lang", LANGUAGE) != LANGUAGE:
            skipped["in another language"] += 1
            continue
        if not str(record.fields.get("answer", "")).strip():
            skipped["without an answer"] += 1
            continue
        answer = record.text("answer")
        fields = {
            "id": record.identifier("qid"),
            "image": pictures.get(record.text("img_name")),
            "question": record.text("question"),
            "answers": answer,
            KIND: answer_kind(record.fields.get("answer_type"), answer),
        }
        meta = {key: record.fields.get(key) for key in ("modality", "location", "content_type", "base_type")}
        yield Record(path, record.place, fields | meta)
