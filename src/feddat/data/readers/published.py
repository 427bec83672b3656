"""The published datasets by name: which files each expects below its own root folder, and the examples in them.

The root folder of a dataset is where its archives were unpacked; links serve where two datasets share images. What lies
below it is documented in the module of each format.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from feddat.data.readers import vqa
from feddat.data.readers.records import MissingImageError, Record, to_example
from feddat.example import DataError, Example

log = logging.getLogger(__name__)


class Source(Protocol):
    """One published dataset.

    Attributes:
        name: key in :data:`SOURCES`.
        task: name in :data:`feddat.tasks.TASKS`.
        description: one line, with citation.
        splits: the published splits that have answers.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def description(self) -> str: ...  # noqa: D102
    @property
    def splits(self) -> tuple[str, ...]: ...  # noqa: D102

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """Return the annotation files that ``split`` is made of, whether they exist or not.

        Raises:
            DataError: there is no such split.
        """
        ...

    def read(
        self, root: Path, split: str, *, skip_missing: bool = False, skipped: Counter[str] | None = None
    ) -> Iterator[Example]:
        """Yield the examples of ``split``, in the order of its files, each image a path.

        Args:
            root: the dataset's own folder.
            split: one of ``splits``.
            skip_missing: skip examples whose image file is missing, instead of raising.
            skipped: filled with why records were skipped, and how many.

        Raises:
            DataError: a file is missing or malformed, or a record cannot be used; names file and record.
        """
        ...


@dataclass(frozen=True)
class RecordSource:
    """A :class:`Source` made of two functions of its format: which files, and the records in them.

    Attributes:
        locate: (root, split) -> annotation files.
        records: (root, split, skipped) -> records in the columns of own data, images relative to root.
    """

    name: str
    task: str
    description: str
    splits: tuple[str, ...]
    locate: Callable[[Path, str], tuple[Path, ...]]
    records: Callable[[Path, str, Counter[str]], Iterator[Record]]

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """See :meth:`Source.files`."""
        if split not in self.splits:
            raise DataError(f"{self.name}: no split {split!r}; expected {', '.join(self.splits)}")
        return self.locate(root, split)

    def read(
        self, root: Path, split: str, *, skip_missing: bool = False, skipped: Counter[str] | None = None
    ) -> Iterator[Example]:
        """See :meth:`Source.read`."""
        for path in self.files(root, split):
            if not path.is_file():
                raise DataError(f"{path}: no such file; {self.name} {split} needs it")
        skipped = Counter() if skipped is None else skipped
        seen: set[str] = set()
        for record in self.records(root, split, skipped):
            try:
                example = to_example(record, self.task, root)
            except MissingImageError:
                if not skip_missing:
                    raise
                skipped["image file missing"] += 1
                continue
            if example.id in seen:
                raise DataError(f"{record.where}: duplicate id {example.id!r}")
            seen.add(example.id)
            yield example
        if skipped:
            log.info("%s %s: skipped: %s", self.name, split, ", ".join(f"{n} {why}" for why, n in skipped.items()))


#: Dataset name -> where its examples come from.
SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        RecordSource(
            "vqav2",
            "vqa",
            "VQA v2: questions about COCO photos (Goyal et al., CVPR 2017)",
            ("train", "val"),
            vqa.V2.files,
            vqa.V2.records,
        ),
        RecordSource(
            "abstract-scenes",
            "vqa",
            "VQA v1 Abstract Scenes: questions about clip art (Antol et al., ICCV 2015)",
            ("train", "val"),
            vqa.ABSTRACT.files,
            vqa.ABSTRACT.records,
        ),
    )
}
