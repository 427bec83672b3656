"""Conversations about pictures between a human and a model, the training format of LLaVA and similar models.

Liu et al., "Visual Instruction Tuning", NeurIPS 2023 (arXiv 2304.08485). A split is one file ``SPLIT.json`` beside its
pictures; it can have any name::

    train.json    [{"id": "0", "image": "7.png", "conversations": [
                        {"from": "human", "value": "<image>\\nIs there a fracture?"},
                        {"from": "gpt", "value": "Yes."}]}]
    7.png, or images/7.png

Every human turn and the answer to it are one example, which does not include the turns before it. The mark ``<image>``
is dropped, and so is a period at the end of an answer. Conversations without a picture are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from feddat.data.readers import large_json
from feddat.data.readers.image_folder import Below, is_file
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.records import Record
from feddat.example import DataError

MARK = "<image>"
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant", "model")
FOLDERS = ("", "images")


def files(root: Path, split: str) -> tuple[Path, ...]:
    """Return the file of conversations."""
    return (root / f"{split}.json",)


def records(root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
    """Yield one record per human turn that a model answers."""
    (path,) = files(root, split)
    for number, record in enumerate(large_json.elements(path), 1):
        if not record.fields.get("image"):
            skipped["without a picture"] += 1
            continue
        name = record.text("image")
        image = next((Below(folder, name) for folder in FOLDERS if is_file(root / folder / name)), name)
        turns = record.items("conversations")
        for place in range(0, len(turns) - 1, 2):
            asked, answer = (_turn(record, turns[place + step], place + step, HUMAN, MODEL) for step in (0, 1))
            question = " ".join(asked.replace(MARK, " ").split())
            fields = {
                "id": f"{number}-{place // 2 + 1}",
                "image": image,
                "question": question,
                "answers": answer.rstrip("."),
                KIND: answer_kind(record.fields.get("answer_type"), answer),
            }
            yield Record(path, record.place, fields)


def _turn(record: Record, turn: object, place: int, human: tuple[str, ...], model: tuple[str, ...]) -> str:
    """Return the text of a turn, after checking that the right speaker has it."""
    said = turn if isinstance(turn, dict) else {}
    who, text = said.get("from", said.get("role")), said.get("value", said.get("content"))
    expected = human if place % 2 == 0 else model
    if who not in expected or not isinstance(text, str) or not text.strip():
        raise DataError(f"{record.where}: turn {place + 1}: expected text from {expected[0]}, got {str(turn)[:80]}")
    return text.strip()
