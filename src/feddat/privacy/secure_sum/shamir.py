"""Shamir's secret sharing (CACM 1979) over the integers modulo a prime.

The one well-maintained library that has it, PyCryptodome, works over GF(2^128) bit by bit and is far slower, so this is
our own code. A secret has 16 bytes: as strong as the curve whose keys it makes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from feddat.privacy.secure_sum.errors import SumError

#: The smallest prime above 2^128, so every secret is a number below it.
PRIME = 2**128 + 51
#: Bytes of a secret, and of a share's value.
SECRET_BYTES, SHARE_BYTES = 16, 17


class ShareError(SumError):
    """Shares do not give a secret."""


def split(secret: bytes, threshold: int, points: Sequence[int]) -> list[bytes]:
    """Return a share for every point. Any ``threshold`` of them give the secret; fewer say nothing about it.

    Args:
        secret: :data:`SECRET_BYTES` bytes.
        threshold: number of shares that give the secret, at least 1.
        points: different numbers from 1 to ``PRIME - 1``, at which the polynomial is evaluated.

    Raises:
        ShareError: the secret has another length, or points or threshold are invalid.
    """
    if len(secret) != SECRET_BYTES:
        raise ShareError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if len(set(points)) < len(points) or not all(0 < point < PRIME for point in points):
        raise ShareError(f"expected different points from 1, got {list(points)[:8]}")
    if not 1 <= threshold <= len(points):
        raise ShareError(f"a threshold of {threshold}, expected 1 to {len(points)}, the number of shares")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret))
    return [_value(coefficients, point).to_bytes(SHARE_BYTES) for point in points]


def is_share(share: bytes) -> bool:
    """Return whether bytes can be a share."""
    return len(share) == SHARE_BYTES and int.from_bytes(share) < PRIME


def weights(points: Sequence[int]) -> list[int]:
    """Return the Lagrange weights at 0 for shares at these points; they serve every secret that is shared over them.

    Raises:
        ShareError: a point occurs twice.
    """
    if len(set(points)) < len(points):
        raise ShareError("two shares are of the same point")
    found = []
    for place, point in enumerate(points):
        over = under = 1
        for other_place, other in enumerate(points):
            if other_place != place:
                over = over * other % PRIME
                under = under * (other - point) % PRIME
        found.append(over * pow(under, -1, PRIME) % PRIME)
    return found


def combine(shares: Mapping[int, bytes], known: Mapping[int, int] | None = None) -> bytes:
    """Return the secret, given as many shares as the threshold.

    Args:
        shares: point -> share.
        known: point -> weight, from :func:`weights` for the same points.

    Raises:
        ShareError: a share has the wrong form, or the shares give no secret because one of them is wrong.
    """
    if not all(is_share(share) for share in shares.values()):
        raise ShareError("a share has the wrong form")
    by_point = known or dict(zip(shares, weights(list(shares)), strict=True))
    total = sum(int.from_bytes(share) * by_point[point] for point, share in shares.items()) % PRIME
    if total >= 2 ** (8 * SECRET_BYTES):
        raise ShareError("the shares do not belong together")
    return total.to_bytes(SECRET_BYTES)


def _value(coefficients: Sequence[int], point: int) -> int:
    total = 0
    for coefficient in coefficients:  # the highest power first
        total = (total * point + coefficient) % PRIME
    return total
