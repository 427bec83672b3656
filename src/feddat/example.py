"""The records that all packages share: an example, a backbone's view of it, and a client's data.

This module imports nothing from the other packages, so readers, models and tasks can share its types without importing
each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feddat.picture_settings import PictureSettings

#: Pixels (uint8, H x W x 3, RGB), the path of an image file, or the bytes of one.
Image: TypeAlias = NDArray[np.uint8] | Path | bytes


def image_identity(image: Image) -> Hashable:
    """Return a key that is the same for the same path, bytes or pixels in memory, as long as these are kept."""
    if isinstance(image, Path | bytes):
        return image
    return image.__array_interface__["data"][0], image.shape, image.strides


#: The splits of a client's data.
SPLITS = ("train", "validation", "test")
#: Task -> names of its labels in index order.
LABELS = {"nlvr2": ("false", "true"), "snli-ve": ("entailment", "neutral", "contradiction")}
#: Number of answers to choose from in VCR.
VCR_CHOICES = 4
#: Ways to answer: choose a class; rank the list of answers by likelihood; generate text freely.
ANSWERING = ("classes", "rank", "generate")


#: A reason in :attr:`ClientData.left_out`: no answer of a training question is in the client's answer vocabulary.
OUTSIDE = "none of whose answers is frequent enough"


class DataError(ValueError):
    """Input data is unusable; the message names the file or record and what was expected."""


@dataclass(frozen=True, slots=True)
class View:
    """The input of one forward pass of the backbone: one image and one text. A task makes one or more per example."""

    image: Image
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image-text example.

    Attributes:
        id: unique within its client and split.
        images: one image; two for NLVR2.
        text: the question, sentence or hypothesis.
        answers: answer text -> soft score in [0, 1] (VQA); empty for tasks with a class label.
        choices: the answer candidates of a multiple-choice question (VCR); else empty.
        label: class index (NLVR2, SNLI-VE) or index of the right choice (VCR); ``None`` for VQA.
        meta: values that a report can show or group by (kind of question, topic, ...); never an input of a model.
    """

    id: str
    images: tuple[Image, ...]
    text: str
    answers: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    label: int | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ClientData:
    """One client's own data, which never leaves it.

    Attributes:
        name: stable client name; key of the personal store.
        task: name in :data:`feddat.tasks.TASKS`.
        train: training examples.
        validation: examples held out from training; the only split for choosing settings.
        test: examples for the final numbers only.
        answers: the answer vocabulary (VQA), in index order, built only from ``train``; empty for other tasks.
        description: one line for reports.
        encodings: folder for the encoders' cached outputs; ``None``: keep them only in memory.
        answering: how this client answers, one of :data:`ANSWERING`; ``None``: as the run says.
        left_out: split -> reason -> number of records in its files that are not among the examples.
        pictures: how to read its images.
    """

    name: str
    task: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    answers: tuple[str, ...] = ()
    description: str = ""
    encodings: Path | None = None
    answering: str | None = None
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pictures: PictureSettings = field(default_factory=PictureSettings)

    def split(self, name: str) -> tuple[Example, ...]:
        """Return the examples of ``train``, ``validation`` or ``test``.

        Raises:
            ValueError: the name is none of these.
        """
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; expected train, validation or test")
        return getattr(self, name)  # type: ignore[no-any-return]
