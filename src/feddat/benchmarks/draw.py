"""Draw some thousand questions of a published dataset by seed, as one client's data.

Every question gets a random number from the seed, the client and the question's id; the questions with the smallest
numbers are drawn. The choice does not depend on the order of the files, and a smaller draw is a subset of a larger one.
Questions are streamed; only those drawn so far are in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feddat.benchmarks.paper import Part
from feddat.data.readers.own import HELD_OUT, top_answers
from feddat.example import SPLITS, ClientData, DataError, Example, Image
from feddat.seeding import derive

#: Questions per client and size of the answer vocabulary, as published.
TRAIN_EXAMPLES, TEST_EXAMPLES, TOP_ANSWERS = 2500, 500, 100


@dataclass(frozen=True, slots=True)
class Sizes:
    """The largest number of questions that a client gets.

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
    """Counts of the kept and dropped questions of one split.

    Attributes:
        published: questions that the reader returned.
        outside: questions dropped because none of their answers is in the vocabulary.
        drawn: questions drawn for the client.
        broken: drawn questions that were left out because an image cannot be decoded.
        kept: questions that the client has.
        skipped: reason -> number of questions that the reader left out; those of a published training split are all
            counted under ``train``.
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
    """Draw one client's data, and count the kept and dropped questions per split.

    A tenth of the training images, drawn by seed, is held out for validation with all questions about them, so no image
    is on both sides. The vocabulary comes from the answers to the remaining training questions. Questions without any
    answer in the vocabulary are dropped.

    Args:
        part: the client's share of the published data.
        root: folder of the published datasets.
        seed: seed of the draw.
        sizes: numbers of questions.
        skip_missing: leave out questions with a missing image file instead of raising.
        outside: allow records that name images outside the dataset's own folders.

    Raises:
        DataError: a file is missing or malformed, or a split is empty; the message names the client and the file.
    """
    part.files(root)
    source = part.published()
    folder = root / part.folder
    counts = {split: Count() for split in SPLITS}
    skipped = {name: Counter[str]() for name in ("train", part.test)}

    def published(name: str) -> Iterator[tuple[str, Example]]:
        """Yield the examples of a published split, each with its split at the client."""
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
                f"({counts[split].outside} have no answer among the {len(answers)} of the client)"
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
    """The ``limit`` examples with the smallest numbers among all offered examples."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, int, Example]] = []
        self._offered = 0

    def offer(self, number: int, example: Example) -> None:
        """Keep the example if its number is among the smallest so far."""
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
    """Return a name for an example's first image that does not depend on the dataset's location."""
    image = images[0]
    if not isinstance(image, Path):
        raise DataError(f"{folder}: expected images in files")
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.name
