"""The federations of the paper (arXiv 2308.12305, section 5): the clients and their published datasets.

Training questions come from a dataset's published training split. Test questions come from its test split, or from its
validation split if the answers to the test questions are not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feddat.data.readers.published import SOURCES, Source
from feddat.example import DataError


@dataclass(frozen=True, slots=True)
class Part:
    """One client's share of the published data.

    Attributes:
        client: the client's name.
        source: key of :data:`~feddat.data.readers.published.SOURCES`.
        test: the published split from which the test questions are drawn.
        folder: the dataset's folder below the root.
    """

    client: str
    source: str
    test: str
    folder: str

    def published(self) -> Source:
        """Return the dataset."""
        return SOURCES[self.source]

    def files(self, root: Path) -> list[Path]:
        """Return this client's annotation files below ``root``.

        Raises:
            DataError: a file is missing; the message says where it is expected.
        """
        source = self.published()
        files = [path for split in ("train", self.test) for path in source.files(root / self.folder, split)]
        for path in files:
            if not path.is_file():
                raise DataError(
                    f"client {self.client}: {path}: no such file; expected the files of {source.description} "
                    f"below {root / self.folder}"
                )
        return files


@dataclass(frozen=True, slots=True)
class Federation:
    """One federation of the paper.

    Attributes:
        description: one-line description.
        differs: what differs between the clients.
        parts: the clients.
    """

    description: str
    differs: str
    parts: tuple[Part, ...]

    @property
    def shared(self) -> str:
        """What is new to the foundation model and common to all clients."""
        return "nothing by design: the datasets are as they were published"


def _parts(rows: Iterable[tuple[str, str, str]], folder: str | None = None) -> tuple[Part, ...]:
    return tuple(Part(client, source, test, folder or source) for client, source, test in rows)


FEDERATIONS: Mapping[str, Federation] = {
    "paper/domain": Federation(
        "the paper's Domain federation: AQUA, COCO-QA, Abstract Scenes, VizWiz, GQA",
        "image domain, style of question, answers",
        _parts(
            [
                ("aqua", "aqua", "test"),
                ("cocoqa", "cocoqa", "test"),
                ("abstract", "abstract-scenes", "val"),
                ("vizwiz", "vizwiz", "val"),
                ("gqa", "gqa", "val"),
            ]
        ),
    ),
    "paper/scene": Federation(
        "the paper's Scene federation: six groups of CLOVE's scenes",
        "the kind of scene",
        _parts([(f"scene-{group}", f"clove-scene-{group}", "val") for group in "abcdef"], folder="clove"),
    ),
    "paper/function": Federation(
        "the paper's Function federation: five of CLOVE's skills",
        "the skill that a question needs",
        _parts(
            [
                (skill, f"clove-function-{skill}", "val")
                for skill in ("attribute", "knowledge", "logical", "object", "relation")
            ],
            folder="clove",
        ),
    ),
    "paper/task": Federation(
        "the paper's Task federation: VQA v2, NLVR2, SNLI-VE, VCR",
        "the task, its head and its loss",
        _parts(
            [
                ("vqa", "vqav2", "val"),
                ("nlvr2", "nlvr2", "test1"),
                ("snli-ve", "snli-ve", "test"),
                ("vcr", "vcr", "val"),
            ]
        ),
    ),
}
