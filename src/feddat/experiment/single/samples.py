"""Sample questions of every client's final split with the model's answers, for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from feddat.example import ClientData, Example
from feddat.pictures import PictureReader, Pixels
from feddat.tasks.base import Task

#: Sample questions per client, answers kept per question, and longer side of the pictures in pixels.
COUNT, TOP, PICTURE_SIZE = 4, 3, 192

#: (client, examples, k) -> the k most likely answers to each example, with probabilities.
Predict = Callable[[str, Sequence[Example], int], list[list[tuple[str, float]]]]


def write_samples(data: ClientData, task: Task, split: str, predict: Predict, pictures: Path) -> list[dict[str, Any]]:
    """Answer some of a client's questions, write their pictures, and return one record per question.

    Raises:
        OSError: a picture cannot be read or written.
    """
    examples, reader = data.split(split), PictureReader(data.pictures)
    # Spread over the split, since neighbouring questions are often about the same picture.
    chosen = [examples[i] for i in np.unique(np.linspace(0, len(examples) - 1, COUNT).astype(int))]
    records = []
    for number, (example, top) in enumerate(zip(chosen, predict(data.name, chosen, TOP), strict=True)):
        names = [f"{data.name}-{number}-{place}.png" for place in range(len(example.images))]
        for name, image in zip(names, example.images, strict=True):
            _write_thumbnail(reader.read(image), pictures / name)
        right = right_answers(example, task)
        records.append(
            {
                "client": data.name,
                "id": example.id,
                "images": [f"{pictures.name}/{name}" for name in names],
                "question": example.text,
                "choices": list(example.choices),
                "truth": ", ".join(right),
                "top": [[answer, probability] for answer, probability in top],
                "score": right.get(top[0][0], 0.0),
            }
        )
    return records


def right_answers(example: Example, task: Task) -> dict[str, float]:
    """Return the right answers with their scores, best first."""
    if example.label is not None:
        return {(example.choices or task.classes)[example.label]: 1.0}
    return dict(sorted(example.answers.items(), key=lambda item: -item[1]))


def _write_thumbnail(pixels: Pixels, path: Path) -> None:
    small = Pictures.fromarray(pixels)
    small.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    small.save(path)
