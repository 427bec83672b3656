"""Hashes of what clients hold, cheap enough for every start of a run.

Questions, answers and labels are hashed whole, in their order. So are pictures that are in memory, such as generated
ones. Of files every name and size counts, and the whole content of as many, drawn at random, as a budget of bytes
allows: all of most data sets, a sample of large ones. What that misses is a file that was exchanged for one of the same
name and size, beside the sample: seldom where files are compressed, since two pictures hardly ever have the same size;
but of uncompressed ones (BMP, raw DICOM) a few that were exchanged in a large set can go unseen. Times of change do not
count, so that a copy of the data is the same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from feddat.data.cache import EncodedImage
from feddat.example import ClientData, Example, Image
from feddat.seeding import numpy_generator

#: Bytes of files that are read for all clients together, and for one split of one client at least and at most.
BUDGET, LEAST, MOST = 2**30, 2**20, 2**26
SPLITS = ("train", "validation", "test")


def data_hashes(clients: Iterable[ClientData]) -> dict[str, str]:
    """Return hashes by what they are of: ``client NAME: SPLIT questions`` and ``client NAME: SPLIT images``.

    Files that cannot be read count as such; whoever uses them complains.
    """
    splits = {(data.name, split): data.split(split) for data in clients for split in SPLITS}
    distinct = {id(examples): examples for examples in splits.values()}  # many clients may share their tests
    budget = min(MOST, max(LEAST, BUDGET // max(1, len(distinct))))
    known = {key: (_questions(examples), _images(examples, budget)) for key, examples in distinct.items()}
    hashes: dict[str, str] = {}
    for (name, split), examples in splits.items():
        questions, images = known[id(examples)]
        hashes |= {f"client {name}: {split} questions": questions, f"client {name}: {split} images": images}
    return hashes


def _questions(examples: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for example in examples:
        answers = sorted(example.answers.items())
        values = [example.id, example.text, answers, list(example.choices), example.label, len(example.images)]
        digest.update(json.dumps(values, ensure_ascii=False).encode())
    return digest.hexdigest()


def _images(examples: Sequence[Example], budget: int) -> str:
    images = list({_key(image): image for example in examples for image in example.images}.values())
    digest = hashlib.blake2b(digest_size=8)
    sizes = [_size(image) for image in images]
    for image, size in zip(images, sizes, strict=True):
        name = image.name if isinstance(image, Path) else ""
        digest.update(f"{name}\x1f{size}\x1f{getattr(image, 'shape', '')}\x1e".encode())
    for index in numpy_generator(0, "digest", str(len(images))).permutation(len(images)).tolist():
        image, size = images[index], sizes[index]
        if isinstance(image, Path | EncodedImage):
            if size > budget:
                continue
            budget -= size
        digest.update(_content(image))
    return digest.hexdigest()


def _key(image: Image) -> Path | int:
    return image if isinstance(image, Path) else id(image)


def _size(image: Image) -> int:
    if isinstance(image, Path):
        try:
            return image.stat().st_size
        except OSError:
            return -1
    return len(image) if isinstance(image, bytes) else image.nbytes


def _content(image: Image) -> bytes:
    if isinstance(image, Path):
        try:
            with image.open("rb") as file:
                return hashlib.file_digest(file, "blake2b").digest()
        except OSError:
            return b"unreadable"
    return hashlib.blake2b(image if isinstance(image, bytes) else np.ascontiguousarray(image).data).digest()
