"""Random numbers that nobody can guess: ChaCha20's keystream as uniform and normal numbers.

Torch's own generators are no secret: a few of their numbers give all others away. Here every number comes from the
stream cipher ChaCha20 (RFC 8439), whose key is 32 bytes of the operating system (``os.urandom``).

Normal numbers are made in float64 (Box and Muller 1958), and whoever adds them to a sum does so in float64, too, before
it is rounded to float32. So every float32 near a sum can come out, and which one does tells no more of the sum than a
real normal number would, up to the rounding of float64 (Mironov, CCS 2012, shows what float32 noise gives away).
"""

from __future__ import annotations

import hashlib
import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

#: Bits of a float64's mantissa, all of which are random.
_BITS = 53


class NoiseSource:
    """One keystream, read from its beginning; it is never read twice.

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
        """Return standard normal numbers (count,), float64; beyond 8.6 none comes, which one in 10¹⁷ would."""
        half = (count + 1) // 2
        radius, angle = self.uniform(2 * half, device).view(2, half)
        radius = radius.log_().mul_(-2.0).sqrt_()
        angle = angle.mul_(2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]

    def seed(self) -> int:
        """Return 63 random bits, for a generator of numbers that need not be secret for long: dropout's."""
        return int.from_bytes(self._stream.update(bytes(8)), "big") >> 1


def poisson_sample(size: int, rate: float, source: NoiseSource) -> Tensor:
    """Return the indices (n,), long, of those of ``size`` records that a step is made of: each by itself with ``rate``.

    Their number differs from step to step, and may be 0. Privacy amplification by sampling is proven for this way to
    sample and not for batches of a fixed size out of a shuffled epoch.
    """
    return (source.uniform(size) < rate).nonzero().flatten()
