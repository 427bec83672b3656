"""Hashes of the clients' data, cheap enough to compute at every start of a run.

Questions, answers and labels are hashed completely and in order. So are images in memory, such as generated ones.
For image files, the hash covers every name and size, and the whole content of a random sample within a budget of
bytes: all files of most data sets, some files of large ones.

The hash misses a file outside the sample that was replaced by one of the same name and size. This is rare for
compressed images, since two of them hardly ever have the same size. In a large set of uncompressed images (BMP, raw
DICOM), a few replaced files can go unnoticed. Modification times do not count, so a copy of the data has the same hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from feddat.data.cache import EncodedImage
from feddat.example import SPLITS, ClientData, Example, Image
from feddat.seeding import numpy_generator

#: Bytes to read from files: for all clients together, and the least and the most for one split of one client.
BUDGET, LEAST, MOST = 2**30, 2**20, 2**26


def data_hashes(clients: Iterable[ClientData]) -> dict[str, str]:
    """Return hashes under the names ``client NAME: SPLIT questions`` and ``client NAME: SPLIT images``.

    An unreadable file is hashed as unreadable; the code that uses it reports the error.
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
