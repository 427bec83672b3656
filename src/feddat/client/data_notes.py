"""Counts of a client's examples that are unusable, or that distort its scores; reported before the scores are computed.

The counts stay with the owner of the data: no message contains them.
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
from feddat.example import OUTSIDE, SPLITS, ClientData, DataError, Example, Image
from feddat.models.base import Encoder, Unread

#: Bytes at each end of a file that are compared with other files of the same size.
COMPARED = 65536


@dataclass(frozen=True, slots=True)
class SplitNotes:
    """Counts of the questions of one split; in other tasks, of its sentences.

    Attributes:
        questions: all questions of the split.
        left_out: records that were skipped when the files were read.
        unanswerable: questions with no answer that the client can give; ``train`` drops them.
        cut: questions whose text is longer than the model reads.
        empty: questions with no text that the model reads.
        repeated: questions with the picture and the text of an earlier one.
        seen: questions of ``test`` about a picture that is also in ``train``.
    """

    questions: int
    left_out: int = 0
    unanswerable: int = 0
    cut: int = 0
    empty: int = 0
    repeated: int = 0
    seen: int = 0

    def counts(self) -> dict[str, int]:
        """Return the counts that are not zero, by attribute, without ``questions``."""
        return {key: count for key, count in asdict(self).items() if count and key != "questions"}

    @property
    def grave(self) -> bool:
        """Whether any count except ``left_out`` covers half of the questions or more."""
        return any(2 * count >= self.questions for key, count in self.counts().items() if key != "left_out")


#: Split -> its counts.
Notes: TypeAlias = Mapping[str, SplitNotes]


def examine(member: Member, encoder: Encoder) -> dict[str, SplitNotes]:
    """Return the notes on a client's splits; a split without any is left out.

    Args:
        member: the client.
        encoder: reads the client's texts.
    """
    data, notes = member.data, {}
    train = _Pictures(image for example in data.train for image in example.images)
    for split in SPLITS:
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


#: Count -> its meaning, which follows the number in a sentence.
MEANINGS = {
    "left_out": "more were left out when they were read",
    "unanswerable": "cannot be answered with the answers of train",
    "cut": "are longer than the model reads",
    "empty": "have no text that the model reads",
    "repeated": "repeat another one's picture and text",
    "seen": "are about a picture that is also in train",
}
DROPPED = "more were dropped because none of their answers is frequent enough"


def sentence(client: str, split: str, notes: SplitNotes) -> str:
    """Return the counts of one split as a sentence for the log."""
    if notes.questions and notes.unanswerable >= notes.questions and split != "train":
        return (
            f"client {client}: {split}: none of the {notes.questions} questions can be answered, so the score is 0 %: "
            "their answers are not among the answers of train"
        )
    means = MEANINGS | {"unanswerable": DROPPED} if split == "train" else MEANINGS
    parts = [f"{count} {means[key]}" for key, count in notes.counts().items()]
    return f"client {client}: {split}: of {notes.questions} questions: {', '.join(parts)}"


def unanswerable(data: ClientData, split: str) -> int:
    """Return the number of questions in a split with no answer that the client can give."""
    known = set(data.answers)
    return sum(
        bool(example.answers) and not any(score > 0 and answer in known for answer, score in example.answers.items())
        for example in data.split(split)
    )


def _unread(member: Member, examples: Sequence[Example], encoder: Encoder) -> list[Unread | None]:
    """Return how the encoder reads each example's text; for several texts, the worst case."""
    texts = [_texts(member, example) for example in examples]
    distinct = list(dict.fromkeys(text for own in texts for text in own))
    found = dict(zip(distinct, encoder.unread(distinct), strict=True))
    return [max((found[text] for text in own), key=(None, "cut", "empty").index) for own in texts]


def _texts(member: Member, example: Example) -> list[str]:
    try:
        return [view.text for view in member.task.views(example)]
    except DataError:  # encoding reports it
        return [example.text]


class _Pictures:
    """The pictures of a split; ``in`` tells whether another picture is among them."""

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
        """Return whether a file of another name has the same content; only files of the same size are read."""
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
    """Return a key that equal pictures share and different pictures almost never do."""
    if isinstance(image, EncodedImage):  # a view of the only copy in a file
        return str(image.__array_interface__["data"])
    if isinstance(image, np.ndarray):
        return image.shape, hashlib.blake2b(image[::3, ::3].tobytes(), digest_size=16).digest()
    return image


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # reading the picture reports it
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
