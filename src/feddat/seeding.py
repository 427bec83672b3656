"""One seed for a whole run, split by name.

Every random choice has its own generator, named by its use (client, round, purpose). Results therefore do not depend on
the order or the process in which clients run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and on every name, in order.

    The names are joined by a separator that no name may contain, so ``("a", "bc")`` and ``("ab", "c")`` differ.
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator seeded with :func:`derive`."""
    import torch  # takes a second to load, which reading data does not need

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded with :func:`derive`."""
    return np.random.default_rng(derive(seed, *names))
