"""Updates as whole numbers in a ring of 2^bits, and the mean that their sum gives.

A number of an update becomes a level from -L to L, times a step that all clients share: clip / L. With n clients,
L = (2^bits - 1) // 2n, so no sum of n levels leaves the ring: it never wraps around, and is exact to the last bit. A
client keeps what rounding and clipping lose of an update, and adds it to its next one (error feedback, as in
:mod:`feddat.app.wire`).

The default is 12 bits. Each of five clients then has 409 levels on either side of 0 (int8: 127), each of a hundred has
20, and the mean over a hundred is as fine as that over five. An update takes 1.5 times the bytes of int8; the adapter
that comes down takes the same, for any number of clients.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from feddat.privacy.secure_sum.errors import SumError

#: Numbers of a ring; only their lowest ``bits`` count. uint16 up to 16 bits, else uint32.
Ring: TypeAlias = NDArray[Any]

#: Smallest number of levels on either side of 0 that a client must have.
LEAST_LEVELS = 3
#: Numbers that are packed together; it is a multiple of 8, so they fill whole bytes.
_BLOCK = 2**15


class RingError(SumError):
    """Bytes do not hold packed numbers, or numbers cannot be a sum."""


def levels(clients: int, bits: int) -> int:
    """Return the number of levels on either side of 0 that each client has in a ring of ``bits`` bits."""
    return int((2**bits - 1) // (2 * clients))


def ring_dtype(bits: int) -> np.dtype[Any]:
    """Return the dtype of a ring's numbers."""
    return np.dtype("<u2") if bits <= 16 else np.dtype("<u4")


def quantise(update: NDArray[np.float32], clip: float, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return an update's levels, int64 (N,), and what they leave of it for the next one, float32 (N,).

    Args:
        update: float32 (N,).
        clip: largest magnitude of a number; what is beyond it is left.
        most: number of levels on either side of 0.

    Raises:
        RingError: a number is NaN or infinite.
    """
    if not np.isfinite(update).all():
        raise RingError("the update has NaN or infinite values")
    exact = update.astype(np.float64)
    found = np.rint(np.clip(exact * (most / clip), -most, most))
    return found.astype(np.int64), (exact - found * (clip / most)).astype(np.float32)


def mean(total: NDArray[np.int64], step: float, clients: int) -> NDArray[np.float64]:
    """Return the mean of ``clients`` updates, given the sum of their levels (N,) and the size of one level."""
    return np.asarray(total * step / clients, np.float64)


def to_ring(values: NDArray[np.int64], bits: int) -> Ring:
    """Return whole numbers modulo 2^bits: those below 0 are in the upper half of the ring."""
    return np.asarray(values & (2**bits - 1)).astype(ring_dtype(bits))


def from_ring(values: Ring, bits: int, most: int) -> NDArray[np.int64]:
    """Return a ring's numbers as whole numbers around 0, int64.

    Raises:
        RingError: a magnitude is above ``most``, the largest that a sum can have.
    """
    whole: NDArray[np.int64] = values.astype(np.int64) & (2**bits - 1)
    whole[whole >= 2 ** (bits - 1)] -= 2**bits
    if whole.size and max(whole.max(), -whole.min()) > most:
        raise RingError("the sum has numbers that the clients' cannot add up to: what one of them sent does not fit")
    return whole


def packed_size(count: int, bits: int) -> int:
    """Return the number of bytes that ``count`` packed numbers take."""
    return (count * bits + 7) // 8


def pack(values: Ring, bits: int) -> NDArray[np.uint8]:
    """Return a ring's numbers packed without gaps, uint8, the lowest bit first."""
    places = np.arange(bits, dtype=values.dtype)
    blocks = [
        np.packbits(((values[at : at + _BLOCK, None] >> places) & 1).astype(np.uint8), bitorder="little")
        for at in range(0, len(values), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.uint8)


def unpack(content: NDArray[np.uint8], count: int, bits: int) -> Ring:
    """Return the numbers that :func:`pack` was given.

    Raises:
        RingError: the number of bytes does not fit ``count``.
    """
    if content.dtype != np.uint8 or content.shape != (packed_size(count, bits),):
        raise RingError(f"{content.size} bytes of packed numbers, expected {packed_size(count, bits)}")
    dtype = ring_dtype(bits)
    values = np.empty(count, dtype)
    places = np.arange(bits, dtype=dtype)
    for at in range(0, count, _BLOCK):
        size = min(_BLOCK, count - at)
        begin = packed_size(at, bits)
        ones = np.unpackbits(content[begin : begin + packed_size(size, bits)], count=size * bits, bitorder="little")
        values[at : at + size] = (ones.reshape(size, bits).astype(dtype) << places).sum(axis=1, dtype=dtype)
    return values
