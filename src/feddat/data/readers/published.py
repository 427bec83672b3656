"""The published datasets by name: the files that each expects below its root folder, and the examples in them.

A dataset's root folder is the one in which its archives were unpacked; use links if two datasets share images. The
module of each format documents the files below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from feddat.data.readers import (
    aqua,
    clove,
    coco_captions,
    cocoqa,
    gqa,
    llava,
    mimic_cxr_vqa,
    nlvr2,
    pmc_vqa,
    slake,
    snli_ve,
    vcr,
    vizwiz,
    vqa,
    vqa_rad,
)
from feddat.data.readers.image_folder import ImageFolder, is_file
from feddat.data.readers.records import Record, to_examples
from feddat.example import DataError, Example


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
        """Return the annotation files of ``split``, whether they exist or not.

        Raises:
            DataError: there is no such split.
        """
        ...

    def read(
        self,
        root: Path,
        split: str,
        *,
        skip_missing: bool = False,
        skipped: Counter[str] | None = None,
        outside: bool = False,
    ) -> Iterator[Example]:
        """Yield the examples of ``split``, in the order of its files.

        Args:
            root: the dataset's own folder.
            split: one of ``splits``.
            skip_missing: skip examples whose image file is missing, instead of raising.
            skipped: reason -> number of records skipped for it; filled in.
            outside: allow records to name images outside the dataset's own folders.

        Raises:
            DataError: a file is missing or malformed, or a record cannot be used; names file and record.
        """
        ...


class Format(Protocol):
    """Interface of a format's module: the annotation files of a split, and the records in them."""

    def files(self, root: Path, split: str) -> tuple[Path, ...]: ...  # noqa: D102

    def records(self, root: Path, split: str, skipped: Counter[str]) -> Iterator[Record]:
        """Yield records with the columns of own data and image names relative to ``root``; count records left out."""
        ...


@dataclass(frozen=True)
class FormatSource:
    """A :class:`Source` that reads its records with a :class:`Format`."""

    name: str
    task: str
    description: str
    splits: tuple[str, ...]
    format: Format

    def files(self, root: Path, split: str) -> tuple[Path, ...]:
        """See :meth:`Source.files`."""
        if split not in self.splits:
            raise DataError(f"{self.name}: no split {split!r}; expected {', '.join(self.splits)}")
        return self.format.files(root, split)

    def read(
        self,
        root: Path,
        split: str,
        *,
        skip_missing: bool = False,
        skipped: Counter[str] | None = None,
        outside: bool = False,
    ) -> Iterator[Example]:
        """See :meth:`Source.read`."""
        for path in self.files(root, split):
            if not is_file(path):
                raise DataError(f"{path}: no such file; {self.name} {split} needs it")
        counts: Counter[str] = Counter() if skipped is None else skipped
        folder = ImageFolder(root, outside)
        yield from to_examples(self.format.records(root, split, counts), self.task, folder, skip_missing, counts)


_SCENES = [(f"clove-scene-{group}", f"scenes {name}", clove.scene(group)) for group, name in clove.SCENES.items()]
_SKILLS = [(f"clove-function-{name}", f"skill {name}", clove.skill(name)) for name in clove.SKILLS]
_TABLE: tuple[tuple[str, str, str, str, Format], ...] = (
    ("aqua", "vqa", "AQUA: questions about paintings (Garcia et al., ECCV Workshops 2020)", "train val test", aqua),
    ("cocoqa", "vqa", "COCO-QA: questions from captions of photos (Ren et al., NeurIPS 2015)", "train test", cocoqa),
    (
        "abstract-scenes",
        "vqa",
        "Abstract Scenes: VQA v1 on clip art (Antol et al., ICCV 2015)",
        "train val",
        vqa.ABSTRACT,
    ),
    ("vizwiz", "vqa", "VizWiz: photos and questions of blind people (Gurari et al., CVPR 2018)", "train val", vizwiz),
    ("gqa", "vqa", "GQA: compositional questions (Hudson and Manning, CVPR 2019)", "train val testdev", gqa),
    *((name, "vqa", f"CLOVE, {part} (Lei et al., AAAI 2023)", "train val", layout) for name, part, layout in _SCENES),
    *((name, "vqa", f"CLOVE, {part} (Lei et al., AAAI 2023)", "train val", layout) for name, part, layout in _SKILLS),
    ("vqav2", "vqa", "VQA v2: questions about COCO photos (Goyal et al., CVPR 2017)", "train val", vqa.V2),
    ("nlvr2", "nlvr2", "NLVR2: sentences about pairs of photos (Suhr et al., ACL 2019)", "train dev test1", nlvr2),
    ("snli-ve", "snli-ve", "SNLI-VE: entailment by Flickr30k photos (Xie et al., 2019)", "train dev test", snli_ve),
    ("vqa-rad", "vqa", "VQA-RAD: clinicians' questions about radiology (Lau et al., 2018)", "train test", vqa_rad),
    ("slake", "vqa", "SLAKE, English: radiology (Liu et al., ISBI 2021)", "train validation test", slake),
    (
        "mimic-cxr-vqa",
        "vqa",
        "MIMIC-CXR-VQA: chest X-rays (Bae et al., NeurIPS 2023)",
        "train validation test",
        mimic_cxr_vqa,
    ),
    ("pmc-vqa", "vcr", "PMC-VQA: choices about figures of articles (Zhang et al., 2023)", "train test", pmc_vqa),
    ("vcr", "vcr", "VCR, question to answer, on film stills (Zellers et al., CVPR 2019)", "train val", vcr),
)

#: Formats whose splits can have any names: name -> one-line description and reader.
FORMS: Mapping[str, tuple[str, Format]] = {
    "llava": ("conversations about pictures, SPLIT.json (Liu et al., NeurIPS 2023)", llava),
    "coco-captions": ("captions of pictures, annotations/captions_SPLIT.json (Chen et al., 2015)", coco_captions),
}
#: Dataset name -> source of its examples.
SOURCES: Mapping[str, Source] = {
    name: FormatSource(name, task, description, tuple(splits.split()), layout)
    for name, task, description, splits, layout in _TABLE
}
