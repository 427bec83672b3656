"""GQA: compositional questions made from scene graphs, in the balanced selection.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering", CVPR 2019
(arXiv 1902.09506). Formats as documented on cs.stanford.edu/people/dorarad/gqa/download, archives unpacked side by
side::

    train_balanced_questions.json   {"02930152": {"imageId": "2354786", "question": ..., "answer": "yes",
                                                  "types": {"structural": "verify", ...}, ...}, ...}
    images/2354786.jpg
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below
from feddat.data.readers.records import Record


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the questions file."""
    return (root / f"{split}_balanced_questions.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per question, with its one right answer and its structural type."""
    (path,) = files(root, split)
    for record in large_json.entries(path, "question_id"):
        types = record.fields.get("types")
        fields = {
            "id": record.text("question_id"),
            "image": Below("images", f"{record.identifier('imageId')}.jpg"),
            "question": record.text("question"),
            "answers": record.text("answer"),
            "kind": types.get("structural") if isinstance(types, dict) else None,
        }
        yield Record(path, record.place, fields)
