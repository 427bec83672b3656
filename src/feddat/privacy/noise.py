"""Random numbers that nobody can guess: ChaCha20's keystream as integers, uniform numbers and normal numbers.

Torch's own generators are not secret: a few of their numbers give all others away. Here every number comes from the
stream cipher ChaCha20 (RFC 8439) under a key of 32 bytes from the operating system (``os.urandom``).

Normal numbers are made in float64 (Box and Muller 1958). Whoever adds them to a sum does so in float64 too, before the
sum is rounded to float32. So every float32 near a sum can come out, and which one does tells no more about the sum than
a real normal number would, up to the rounding of float64 (Mironov, CCS 2012, shows what float32 noise gives away).
"""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from torch import Tensor

#: Bits of a float64's mantissa, all of which are random.
_BITS = 53


class NoiseSource:
    """One keystream. It is read from its beginning, and no part of it twice.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    @classmethod
    def secure(cls) -> NoiseSource:
        """Return a source whose key the operating system draws and nobody keeps."""
        return cls(os.urandom(32))

    @classmethod
    def seeded(cls, seed: int, *names: str | int) -> NoiseSource:
        """Return a source whose key follows from a seed and names, for tests: who knows the seed knows the noise."""
        text = "\x1f".join([str(seed), *(str(name) for name in names)])
        return cls(hashlib.blake2b(text.encode(), digest_size=32, person=b"feddat noise").digest())

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return whole numbers (count,), uint64, evenly spread over all 2^64."""
        return np.frombuffer(bytearray(self._stream.update(bytes(8 * count))), "<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return numbers (count,), float64, evenly spread over the open interval (0, 1)."""
        drawn = bytearray(self._stream.update(bytes(8 * count)))
        if not count:
            return torch.empty(0, dtype=torch.float64, device=device)
        words = torch.frombuffer(drawn, dtype=torch.int64).to(device)
        # The upper bits, without the sign; half a step up, so that neither 0 nor 1 comes.
        whole = (words >> (64 - _BITS)) & (2**_BITS - 1)
        drawn_numbers: Tensor = (whole.to(torch.float64) + 0.5).mul_(2.0**-_BITS)
        return drawn_numbers.clamp_(max=1.0 - 2.0**-_BITS)

    def normal(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return standard normal numbers (count,), float64. None is beyond 8.6; one in 10¹⁷ would be."""
        half = (count + 1) // 2
        radius, angle = self.uniform(2 * half, device).view(2, half)
        radius = radius.log_().mul_(-2.0).sqrt_()
        angle = angle.mul_(2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]

    def seed(self) -> int:
        """Return 63 random bits, to seed a generator whose numbers need not stay secret for long (dropout)."""
        return int.from_bytes(self._stream.update(bytes(8)), "big") >> 1


def poisson_sample(size: int, rate: float, source: NoiseSource) -> Tensor:
    """Return the indices (n,), long, of the records in a step's sample; each is in it with probability ``rate``.

    The number of indices differs from step to step and can be 0. Privacy amplification by sampling is proven for this
    kind of sampling, not for batches of a fixed size from a shuffled epoch.
    """
    return (source.uniform(size) < rate).nonzero().flatten()
