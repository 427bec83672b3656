"""Divide one dataset among several hospitals that differ in content and size.

Images are divided by a label, with proportions drawn from a Dirichlet distribution, as in Hsu et al., "Measuring the
Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019 (arXiv 1909.06335). The smaller
the distribution's parameter, the fewer hospitals share a label. In every split, all questions about an image stay
together.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from feddat.data.cache import image_key
from feddat.example import ClientData, DataError, Example
from feddat.seeding import numpy_generator

#: Parameter of the Dirichlet distribution.
ALPHA = 0.5
#: Largest number of draws to find one that gives every hospital enough questions.
TRIES = 200
#: Smallest number of questions of a hospital, by split.
LEAST = {"train": 20, "validation": 5, "test": 5}


def split_sites(client: ClientData, count: int, seed: int, label: str) -> list[ClientData]:
    """Divide a client's images among ``count`` hospitals, ``NAME-1``, ``NAME-2``, ...

    Args:
        client: the client with all data.
        count: number of hospitals.
        seed: seed of the draw; the same seed gives the same hospitals.
        label: key in the examples' ``meta``; hospitals differ in how often they see its values.

    Raises:
        DataError: an example has no such label, or there are too few questions for this many hospitals.
    """
    generator = numpy_generator(seed, "sites", client.name)
    grouped = {split: _by_label(client, split, label) for split in LEAST}
    labels = sorted({name for groups in grouped.values() for name in groups})
    for _ in range(TRIES):
        shares = {name: generator.dirichlet(np.full(count, ALPHA)) for name in labels}
        dealt = {split: _deal(groups, shares, count, generator) for split, groups in grouped.items()}
        if all(len(part) >= LEAST[split] for split, parts in dealt.items() for part in parts):
            return [
                replace(
                    client,
                    name=f"{client.name}-{site + 1}",
                    train=dealt["train"][site],
                    validation=dealt["validation"][site],
                    test=dealt["test"][site],
                    left_out={},  # the hospitals of these records are unknown
                )
                for site in range(count)
            ]
    raise DataError(
        f"client {client.name}: {len(client.train)} training questions are too few for {count} different hospitals"
    )


def _by_label(client: ClientData, split: str, label: str) -> dict[str, list[list[Example]]]:
    """Return the examples of a split, grouped by label and then by image, in the order of the split."""
    groups: defaultdict[str, dict[bytes, list[Example]]] = defaultdict(dict)
    for example in client.split(split):
        name = example.meta.get(label)
        if name is None:
            raise DataError(f"client {client.name}, {split}: example {example.id} has no {label} in its meta")
        image = example.images[0]
        key = str(image).encode() if isinstance(image, Path) else image_key(image)
        groups[name].setdefault(key, []).append(example)
    return {name: list(images.values()) for name, images in groups.items()}


def _deal(
    groups: dict[str, list[list[Example]]],
    shares: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
    count: int,
    generator: np.random.Generator,
) -> list[tuple[Example, ...]]:
    dealt: list[list[Example]] = [[] for _ in range(count)]
    for name in sorted(groups):
        images = groups[name]
        order = generator.permutation(len(images))
        ends = np.rint(np.cumsum(shares[name]) * len(images)).astype(int)
        for site, chosen in enumerate(np.split(order, ends[:-1])):
            for index in sorted(chosen.tolist()):
                dealt[site] += images[index]
    return [tuple(part) for part in dealt]
