"""What is in a federation: questions, answers, and what can be had without looking at a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from feddat.example import ClientData, Image

HEADER = ("client", "training", "validation", "test", "images", "answers", "closed", "majority", "text alone")


def describe(data: ClientData, majority: float, text_only: float, kind: str) -> tuple[str, ...]:
    """Return a client's row under :data:`HEADER`.

    Args:
        data: the client's.
        majority: test score in percent of its most frequent answer.
        text_only: test score in percent of a classifier of the questions' words.
        kind: key of ``meta`` that tells closed questions.
    """
    tests = Counter(example.meta.get(kind, "").lower() for example in data.test)
    told = tests.total() - tests[""]
    closed = f"{100 * tests['closed'] / tests.total():.0f} %" if told else "–"
    images = len({_name(example.images[0]) for split in (data.train, data.validation, data.test) for example in split})
    numbers = (len(data.train), len(data.validation), len(data.test), images, len(data.answers))
    return (data.name, *(f"{number:,}" for number in numbers), closed, f"{majority:.1f}", f"{text_only:.1f}")


def to_markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of :func:`describe` as a table in Markdown."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name(image: Image) -> object:
    """Return what tells images apart: bytes and paths by what they are, pixels by where they lie."""
    return id(image) if isinstance(image, np.ndarray) else image
