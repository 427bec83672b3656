"""The data of a federation as a table: questions, answers, and scores without looking at a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from feddat.example import ClientData, Image
from feddat.report.markdown_table import markdown_table

HEADER = ("client", "training", "validation", "test", "images", "answers", "closed", "majority", "text only")


def describe(data: ClientData, majority: float, text_only: float, kind: str) -> tuple[str, ...]:
    """Return a client's row under :data:`HEADER`.

    Args:
        data: data of the client.
        majority: test score of the most frequent answer, in percent.
        text_only: test score of a classifier that sees only the words of the questions, in percent.
        kind: key of ``meta`` that marks closed questions.
    """
    tests = Counter(example.meta.get(kind, "").lower() for example in data.test)
    told = tests.total() - tests[""]
    closed = f"{100 * tests['closed'] / tests.total():.0f} %" if told else "–"
    images = len({_name(example.images[0]) for split in (data.train, data.validation, data.test) for example in split})
    numbers = (len(data.train), len(data.validation), len(data.test), images, len(data.answers))
    return (data.name, *(f"{number:,}" for number in numbers), closed, f"{majority:.1f}", f"{text_only:.1f}")


def to_markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows of :func:`describe` as a Markdown table."""
    return markdown_table(HEADER, rows)


def _name(image: Image) -> object:
    """Return a key that distinguishes images: the bytes or the path, or for pixels the identity of the array."""
    return id(image) if isinstance(image, np.ndarray) else image
