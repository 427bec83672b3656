"""Some thousand questions of a published dataset, drawn by seed as one client's data.

Every question has a random number made of the seed, the client and its id, and the smallest are drawn: the choice does
not depend on the order of the files, and fewer examples are a part of more. Questions are streamed; only those drawn so
far are in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feddat.benchmarks.paper import Part
from feddat.data.readers.own import HELD_OUT, top_answers
from feddat.example import ClientData, DataError, Example, Image
from feddat.seeding import derive

#: Questions per client and size of the answer vocabulary, as published.
TRAIN_EXAMPLES, TEST_EXAMPLES, TOP_ANSWERS = 2500, 500, 100


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many questions a client gets, at most.

    Attributes:
        train: training questions; validation questions are a tenth as many.
        test: test questions.
        answers: size of the answer vocabulary.
    """

    train: int = TRAIN_EXAMPLES
    test: int = TEST_EXAMPLES
    answers: int = TOP_ANSWERS


@dataclass(slots=True)
class Count:
    """What became of the questions of one split.

    Attributes:
        published: questions that the reader gave.
        outside: dropped, as none of their answers is in the vocabulary.
        drawn: for the client.
        broken: of those drawn, left out as an image cannot be decoded.
        kept: what the client has.
        skipped: why the reader left questions out, and how many; a training split's are counted under ``train``.
    """

    published: int = 0
    outside: int = 0
    drawn: int = 0
    broken: int = 0
    kept: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


def draw_client(
    part: Part, root: Path, seed: int, sizes: Sizes, skip_missing: bool = False, outside: bool = False
) -> tuple[ClientData, dict[str, Count]]:
    """Draw one client's data, and count what was kept and dropped per split.

    Questions about a tenth of the training images, drawn by seed, are held out for validation, so that no image is on
    both sides; the vocabulary is made of the others' answers. Questions whose answers all lie outside are dropped.

    Args:
        part: what the client is made of.
        root: folder of the published datasets.
        seed: of the choice.
        sizes: how many questions.
        skip_missing: leave out questions whose image file is missing, instead of raising.
        outside: let records name images outside the dataset's own folders.

    Raises:
        DataError: a file is missing or malformed, or nothing is left of a split; names client and file.
    """
    part.files(root)
    source = part.published()
    folder = root / part.folder
    counts = {split: Count() for split in ("train", "validation", "test")}
    skipped = {name: Counter[str]() for name in ("train", part.test)}

    def published(name: str) -> Iterator[tuple[str, Example]]:
        """Yield the examples of a published split, each with the client's split that it belongs to."""
        skipped[name].clear()
        examples = source.read(folder, name, skip_missing=skip_missing, skipped=skipped[name], outside=outside)
        for example in examples:
            held_out = name == "train" and _held_out(example, folder, seed, part.client)
            yield "validation" if held_out else "train" if name == "train" else "test", example

    answers: tuple[str, ...] = ()
    if source.task == "vqa":
        answers = top_answers((example for split, example in published("train") if split == "train"), sizes.answers)
    limits = {"train": sizes.train, "validation": max(1, round(HELD_OUT * sizes.train)), "test": sizes.test}
    samples = {split: _Sample(limit) for split, limit in limits.items()}
    known = set(answers)
    for name in ("train", part.test):
        for split, example in published(name):
            counts[split].published += 1
            if source.task == "vqa" and known.isdisjoint(example.answers):
                counts[split].outside += 1
            else:
                samples[split].offer(derive(seed, "draw", part.client, split, example.id), example)
    counts["train"].skipped, counts["test"].skipped = dict(skipped["train"]), dict(skipped[part.test])
    drawn = {split: sample.examples() for split, sample in samples.items()}
    for split, examples in drawn.items():
        if not examples:
            raise DataError(
                f"client {part.client}: no {split} question is left of {counts[split].published} in {folder} "
                f"({counts[split].outside} have none of the {len(answers)} answers)"
            )
        counts[split].drawn = counts[split].kept = len(examples)
    data = ClientData(
        part.client,
        source.task,
        drawn["train"],
        drawn["validation"],
        drawn["test"],
        answers,
        source.description,
    )
    return data, counts


class _Sample:
    """The ``limit`` examples with the smallest numbers of all that are offered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, int, Example]] = []
        self._offered = 0

    def offer(self, number: int, example: Example) -> None:
        """Take the example in if its number is among the smallest so far."""
        entry = (-number, self._offered, example)
        self._offered += 1
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def examples(self) -> tuple[Example, ...]:
        """Return the examples in the order in which they were offered."""
        return tuple(example for _, _, example in sorted(self._heap, key=lambda entry: entry[1]))


def _held_out(example: Example, folder: Path, seed: int, client: str) -> bool:
    return derive(seed, "held out", client, _name(example.images, folder)) < HELD_OUT * 2**63


def _name(images: Sequence[Image], folder: Path) -> str:
    """Return what tells an example's first image from others, wherever the dataset lies."""
    image = images[0]
    if not isinstance(image, Path):
        raise DataError(f"{folder}: expected images in files")
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.name
