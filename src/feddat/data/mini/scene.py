"""Scenes of the mini world: four coloured tiles in a 2 x 2 grid, one to four of them holding an object.

A hash of its set of objects assigns each scene to a split. So no combination of objects in a test image occurs in
training, and none in training occurs in the pretraining of the bundled model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feddat.data.mini.concepts import COLOURS, CONCEPTS, GROUPS

#: split -> its share of the hash buckets 0..9 of object combinations.
SPLIT_BUCKETS: dict[str, tuple[int, ...]] = {
    "pretrain": (0, 1, 2, 3),
    "train": (4, 5, 6),
    "validation": (7,),
    "test": (8, 9),
}
EMPTY = -1
_GROUP_MEMBERS = np.array([[i for i, c in enumerate(CONCEPTS) if c.group == group] for group in GROUPS])


@dataclass(frozen=True, slots=True)
class Scenes:
    """N scenes as arrays.

    Attributes:
        objects: (N, 4) int64, index into ``CONCEPTS`` per cell in row-major order, or ``EMPTY``.
        colours: (N, 4) int64, index into ``COLOUR_NAMES`` of every cell's tile.
        shifts: (N, 4, 2) int64, place of the glyph in its cell, 0..6 pixels from top and left.
    """

    objects: NDArray[np.int64]
    colours: NDArray[np.int64]
    shifts: NDArray[np.int64]

    def __len__(self) -> int:
        """Return N."""
        return len(self.objects)

    def take(self, index: NDArray[np.int64]) -> Scenes:
        """Return the scenes at ``index``."""
        return Scenes(self.objects[index], self.colours[index], self.shifts[index])


def combination_bucket(objects: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the hash bucket (N,) in 0..9 of each scene's set of objects; places and colours do not matter."""
    ordered = np.sort(objects, axis=1) + 1
    key = np.zeros(len(objects), np.uint64)
    for column in ordered.T:
        key = key * np.uint64(len(CONCEPTS) + 1) + column.astype(np.uint64)
    # splitmix64: neighbouring keys must land in unrelated buckets.
    key = (key + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((key ^ (key >> np.uint64(31))) % np.uint64(10)).astype(np.int64)


def sample_scenes(
    rng: np.random.Generator,
    count: int,
    split: str,
    sizes: Sequence[int] = (2, 3, 4),
    group: str | None = None,
    stray: float = 0.0,
) -> Scenes:
    """Draw ``count`` scenes whose object combinations belong to ``split``.

    Args:
        rng: source of all randomness.
        count: N.
        split: key of :data:`SPLIT_BUCKETS`.
        sizes: how many objects a scene may hold, equally likely.
        group: draw only objects of this topic group; default: most objects of a scene come from two groups.
        stray: with ``group``: share of objects drawn from any group instead.
    """
    buckets = np.array(SPLIT_BUCKETS[split])
    kept: list[NDArray[np.int64]] = []
    have = 0
    while have < count:
        objects = _sample_objects(rng, 2 * count + 64, sizes, group, stray)
        objects = objects[np.isin(combination_bucket(objects), buckets)]
        kept.append(objects)
        have += len(objects)
    objects = np.concatenate(kept)[:count]
    colours = rng.integers(len(COLOURS), size=(count, 4))
    # A third of the tiles repeat the colour of the first or second tile; otherwise there would be nothing to count.
    repeat = rng.random((count, 4)) < 0.35
    colours = np.where(repeat, colours[:, [0, 0, 1, 1]], colours)
    return Scenes(objects, colours, rng.integers(0, 7, size=(count, 4, 2)))


def _sample_objects(
    rng: np.random.Generator, count: int, sizes: Sequence[int], group: str | None, stray: float
) -> NDArray[np.int64]:
    if group is None:
        pair = rng.integers(len(GROUPS), size=(count, 2))
        chosen = pair[np.arange(count)[:, None], rng.integers(2, size=(count, 4))]
        chosen = np.where(rng.random((count, 4)) < 0.3, rng.integers(len(GROUPS), size=(count, 4)), chosen)
    else:
        chosen = np.full((count, 4), GROUPS.index(group))
        if stray:
            chosen = np.where(rng.random((count, 4)) < stray, rng.integers(len(GROUPS), size=(count, 4)), chosen)
    objects = _GROUP_MEMBERS[chosen, rng.integers(_GROUP_MEMBERS.shape[1], size=(count, 4))]
    ordered = np.sort(objects, axis=1)
    objects = objects[(ordered[:, 1:] != ordered[:, :-1]).all(axis=1)]
    size = rng.choice(np.array(sizes), size=len(objects))
    filled = rng.permuted(np.tile(np.arange(4), (len(objects), 1)), axis=1) < size[:, None]
    return np.where(filled, objects, EMPTY)
