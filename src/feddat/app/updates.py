"""How large the clients' updates of a round are, and how well they agree.

Averaging helps when updates point in the same direction. Both numbers are computed as replies arrive, so memory holds
only the sum of the updates' directions, whatever the number of clients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: How many numbers to square at a time, in float64.
_BLOCK = 1 << 18


class UpdateStatistics:
    """Norm and agreement of the updates u_k = A_k − A, k = 1 … K, of one round."""

    def __init__(self) -> None:
        self._count = self._directed = 0
        self._norms = 0.0
        self._directions: dict[str, NDArray[np.float32]] = {}

    def add(self, returned: Mapping[str, NDArray[np.float32]], sent: Mapping[str, Tensor]) -> None:
        """Add one client's shared part, as returned and as sent; an update of 0 has no direction."""
        if not returned:
            return
        norm = math.sqrt(sum(_squares(returned[key] - _array(value)) for key, value in sent.items()))
        self._count += 1
        self._norms += norm
        if not norm:
            return
        self._directed += 1
        for key, value in sent.items():
            direction = (returned[key] - _array(value)) / np.float32(norm)
            if key in self._directions:
                self._directions[key] += direction
            else:
                self._directions[key] = direction

    def values(self) -> dict[str, float]:
        """Return ``norm``, the mean of ‖u_k‖, and ``agreement``, the mean cosine of two clients' updates.

        The latter is (‖Σ u_k/‖u_k‖‖² − K) / (K² − K) over the K clients whose update is not 0; it is absent with fewer
        than two of them. Return an empty dictionary if nothing was added.
        """
        if not self._count:
            return {}
        found = {"norm": self._norms / self._count}
        if self._directed > 1:
            total = sum(_squares(direction) for direction in self._directions.values())
            found["agreement"] = (total - self._directed) / (self._directed**2 - self._directed)
        return found


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.numpy()
    return array


def _squares(values: NDArray[np.float32]) -> float:
    flat = values.reshape(-1)
    return sum(float(np.square(flat[at : at + _BLOCK], dtype=np.float64).sum()) for at in range(0, flat.size, _BLOCK))
