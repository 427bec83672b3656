"""AQUA: questions about paintings, made from the paintings and from art historians' comments on them.

Garcia et al., "A Dataset and Baselines for Visual Question Answering on Art", ECCV 2020 Workshops (arXiv 2008.12520).
Formats as documented in github.com/noagarcia/ArtVQA; the images are those of SemArt (arXiv 1810.09617)::

    train.json              [{"image": "42809-3baptist.jpg", "question": ..., "answer": "people",
                              "need_external_knowledge": false}]
    SemArt/Images/42809-3baptist.jpg

Questions have no id; their position in the file identifies them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the annotations file."""
    return (root / f"{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with its one right answer."""
    (path,) = files(root, split)
    for record in large_json.elements(path):
        fields = {
            "image": Below("SemArt/Images", record.text("image")),
            "question": record.text("question"),
            "answers": record.text("answer"),
            "need_external_knowledge": record.fields.get("need_external_knowledge"),
        }
        yield Record(path, record.place, fields)
