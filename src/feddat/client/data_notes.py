"""What of a client's data cannot count, or counts for more than it should: said before it lowers or raises a score.

These are counts of the client's own examples. They stay with whoever has the data: no message holds them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from feddat.client.member import Member
from feddat.data.cache import EncodedImage
from feddat.example import OUTSIDE, ClientData, DataError, Example, Image
from feddat.models.base import Encoder, Unread

#: Bytes at either end of a file by which it is compared with others of its size.
COMPARED = 65536


@dataclass(frozen=True, slots=True)
class SplitNotes:
    """Counts of one split's questions, or of other tasks' sentences.

    Attributes:
        questions: that there are.
        left_out: records that were skipped as the files were read.
        unanswerable: none of whose answers the client can give; of ``train``, they are left out.
        cut: whose text is longer than the model reads.
        empty: of whose text the model reads nothing.
        repeated: with the picture and the text of one before.
        seen: of ``test``, about a picture that ``train`` has too.
    """

    questions: int
    left_out: int = 0
    unanswerable: int = 0
    cut: int = 0
    empty: int = 0
    repeated: int = 0
    seen: int = 0

    def counts(self) -> dict[str, int]:
        """Return what is to be said, by attribute; empty: nothing is."""
        return {key: count for key, count in asdict(self).items() if count and key != "questions"}

    @property
    def grave(self) -> bool:
        """Return whether half of the questions or more are no use as they are."""
        return any(2 * count >= self.questions for key, count in self.counts().items() if key != "left_out")


#: Split -> its counts.
Notes: TypeAlias = Mapping[str, SplitNotes]


def examine(member: Member, encoder: Encoder) -> dict[str, SplitNotes]:
    """Return what is to be said of a client's splits; those of which nothing is are left out.

    Args:
        member: the client.
        encoder: reads its texts.
    """
    data, notes = member.data, {}
    train = _Pictures(image for example in data.train for image in example.images)
    for split in ("train", "validation", "test"):
        examples = data.split(split)
        left_out = data.left_out.get(split, {})
        unread = _unread(member, examples, encoder)
        found = SplitNotes(
            len(examples),
            left_out=sum(count for reason, count in left_out.items() if reason != OUTSIDE),
            unanswerable=left_out.get(OUTSIDE, 0) + unanswerable(data, split),
            cut=unread.count("cut"),
            empty=unread.count("empty"),
            repeated=len(examples) - len({_identity(example) for example in examples}),
            seen=sum(any(image in train for image in example.images) for example in examples) if split == "test" else 0,
        )
        if found.counts():
            notes[split] = found
    return notes


#: Count -> what it means, behind the number.
MEANINGS = {
    "left_out": "more were left out as they were read",
    "unanswerable": "cannot be answered with the answers of train",
    "cut": "are longer than the model reads",
    "empty": "have no text that the model reads",
    "repeated": "repeat another one's picture and text",
    "seen": "are about a picture that train has too",
}
DROPPED = "more were dropped, as none of their answers is frequent enough"


def sentence(client: str, split: str, notes: SplitNotes) -> str:
    """Return the counts of one split as a sentence for the log."""
    if notes.questions and notes.unanswerable >= notes.questions and split != "train":
        return (
            f"client {client}: {split}: none of the {notes.questions} questions can be answered, so that the score is "
            "0 %: their answers are not among those of train"
        )
    means = MEANINGS | {"unanswerable": DROPPED} if split == "train" else MEANINGS
    parts = [f"{count} {means[key]}" for key, count in notes.counts().items()]
    return f"client {client}: {split}: of {notes.questions} questions: {', '.join(parts)}"


def unanswerable(data: ClientData, split: str) -> int:
    """Return how many questions of a split the client has none of the answers of."""
    known = set(data.answers)
    return sum(
        bool(example.answers) and not any(score > 0 and answer in known for answer, score in example.answers.items())
        for example in data.split(split)
    )


def _unread(member: Member, examples: Sequence[Example], encoder: Encoder) -> list[Unread | None]:
    """Return of each example what becomes of its texts; of several, the worst."""
    texts = [_texts(member, example) for example in examples]
    distinct = list(dict.fromkeys(text for own in texts for text in own))
    found = dict(zip(distinct, encoder.unread(distinct), strict=True))
    return [max((found[text] for text in own), key=(None, "cut", "empty").index) for own in texts]


def _texts(member: Member, example: Example) -> list[str]:
    try:
        return [view.text for view in member.task.views(example)]
    except DataError:  # told of where it is encoded
        return [example.text]


class _Pictures:
    """The pictures of a split, which can be asked whether another is among them."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._others: defaultdict[Hashable, list[Any]] = defaultdict(list)
        self._files: dict[Path, None] = {}
        for image in images:
            if isinstance(image, Path):
                self._files[image] = None
            else:
                self._others[_key(image)].append(image)
        self._by_size: dict[int, list[Path]] | None = None
        self._digests: dict[Path, bytes] = {}

    def __contains__(self, image: Image) -> bool:
        if isinstance(image, Path):
            return image in self._files or self._has_copy(image)
        same = self._others.get(_key(image), ())
        return any(isinstance(image, EncodedImage) or np.array_equal(image, other) for other in same)

    def _has_copy(self, file: Path) -> bool:
        """Return whether a file of another name holds the same; only files of its size are looked into."""
        if self._by_size is None:
            self._by_size = defaultdict(list)
            for known in self._files:
                self._by_size[_size(known)].append(known)
        same_size = self._by_size.get(_size(file), ())
        return any(self._digest(known) == self._digest(file) for known in same_size)

    def _digest(self, file: Path) -> bytes:
        if file not in self._digests:
            self._digests[file] = _ends(file)
        return self._digests[file]


def _identity(example: Example) -> Hashable:
    return tuple(map(_key, example.images)), example.text, example.choices


def _key(image: Image) -> Hashable:
    """Return what equal pictures have in common, and different ones nearly never."""
    if isinstance(image, EncodedImage):  # a view of a file's one copy of it
        return str(image.__array_interface__["data"])
    if isinstance(image, np.ndarray):
        return image.shape, hashlib.blake2b(image[::3, ::3].tobytes(), digest_size=16).digest()
    return image


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # told of where it is read
        return -1


def _ends(file: Path) -> bytes:
    """Return a hash of a file's first and last bytes."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb") as opened:
            digest.update(opened.read(COMPARED))
            opened.seek(max(opened.tell(), _size(file) - COMPARED))
            digest.update(opened.read(COMPARED))
    except OSError:
        return str(file).encode("utf-8", "replace")
    return digest.digest()
