"""Updates as whole numbers with a share of noise each, so that their sum is private whoever opens it.

The distributed discrete Gaussian mechanism (Kairouz, Liu, Steinke, ICML 2021, arXiv 2102.06387) without its random
rotation. A client clips its update to the L2 norm C, scales it by S / C, and rounds it at random to whole numbers whose
norm is at most D (their theorem 1). Then it adds discrete Gaussian noise. From the rounding on everything is exact:
whole numbers, added up in a ring.

Only h clients' noise is relied on: as few as a sum can be opened with, minus those that may collude. Each client draws
noise of variance z² D² / h, so that the noise of these h alone has variance z² D². More noise does no harm to privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feddat.privacy.discrete_gaussian import MOST_VARIANCE, discrete_gaussian
from feddat.privacy.noise import NoiseSource
from feddat.privacy.secure_sum.errors import SumError

Levels: TypeAlias = NDArray[np.int64]

#: Least variance of one client's noise. From here on, a sum of discrete Gaussians is as good as one discrete Gaussian:
#: no probability differs by a factor of more than 1 ± 10⁻²⁰ (docs/privacy.md).
LEAST_VARIANCE = 9
#: Standard deviations of the whole noise that the ring has room for; a number leaves it about once in 10¹².
_TAIL = 7
#: Most by which rounding may raise the norm, and the noise with it.
MOST_LOSS = 1.5
#: Random roundings that are tried before all numbers are rounded towards 0. Each fits with probability 0.39 or more.
_TRIES = 40
_MOST_SCALE = 2**31


@dataclass(frozen=True)
class NoisePlan:
    """How the updates of one sum become whole numbers, and how much noise each client adds.

    Attributes:
        norm: C, L2 norm that updates are clipped to.
        limit: largest magnitude of one number of an update.
        scale: S, whole number that C becomes.
        square: D², largest square of the L2 norm of a rounded update.
        variance: of one client's noise.
    """

    norm: float
    limit: float
    scale: int
    square: int
    variance: int

    @property
    def step(self) -> float:
        """Size of one level, in units of the update."""
        return self.norm / self.scale

    @property
    def levels(self) -> int:
        """Largest level of a rounded number, on either side of 0."""
        return _levels(self.norm, self.limit, self.scale)

    @property
    def loss(self) -> float:
        """D / S: how much more noise rounding takes."""
        return math.sqrt(self.square) / self.scale


def plan_noise(
    clients: int, honest: int, size: int, bits: int, limit: float, norm: float, multiplier: float
) -> NoisePlan:
    """Return the finest plan whose sum fits a ring.

    Args:
        clients: number of clients that the sum is of, if nobody drops out.
        honest: h, number of clients whose noise is relied on.
        size: numbers of an update.
        bits: of the ring.
        limit: largest magnitude of one number of an update.
        norm: C, L2 norm that updates are clipped to.
        multiplier: z, standard deviation of the noise of h clients divided by D.

    Raises:
        SumError: h is 0 or less, or the ring is too small; says how many bits are needed.
    """
    if honest < 1:
        raise SumError(
            f"noise of {honest} clients is left once colluders are taken off, expected at least 1: lower "
            "privacy.colluders, or raise secure_aggregation.min_clients or threshold"
        )
    found = _finest(clients, honest, size, bits, limit, norm, multiplier)
    if found is not None and found.loss <= MOST_LOSS:
        return found
    for more in range(bits + 1, 33):
        better = _finest(clients, honest, size, more, limit, norm, multiplier)
        if better is not None and better.loss <= MOST_LOSS:
            raise SumError(
                f"secure_aggregation.bits: {bits} are too few for the noise of {clients} clients; set at least {more}"
            )
    raise SumError(
        f"secure_aggregation: no number of bits has room for updates of norm {norm:g} in {size} numbers with noise "
        f"multiplier {multiplier:g}; take more clients, a smaller adapter or a larger privacy.epsilon"
    )


def _finest(
    clients: int, honest: int, size: int, bits: int, limit: float, norm: float, multiplier: float
) -> NoisePlan | None:
    """Return the plan with the largest scale that fits; ``None``: none does."""

    def plan(scale: int) -> NoisePlan | None:
        # Additions, products and square roots of float64 are the same on every machine, and so is the plan.
        square = math.floor(most_square(scale, size))
        variance = max(LEAST_VARIANCE, math.ceil(multiplier * multiplier * square / honest))
        tail = math.ceil(_TAIL * math.sqrt(clients * variance))
        if variance > MOST_VARIANCE or clients * _levels(norm, limit, scale) + tail >= 2 ** (bits - 1):
            return None
        return NoisePlan(norm, limit, scale, square, variance)

    low, high = 0, _MOST_SCALE  # the sum of `low` fits, that of `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plan(middle) is not None else (low, middle)
    return plan(low) if low else None


def most_square(scale: int, size: int) -> float:
    """Return D²: the least square of a norm that random rounding keeps with probability 1 - exp(-1/2) or more.

    Kairouz, Liu, Steinke, theorem 1, with β = exp(-1/2), so that sqrt(2 log(1/β)) = 1. The norm never grows by more
    than sqrt(size).
    """
    root = math.sqrt(size)
    return min((scale + root) ** 2, scale * scale + size / 4 + scale + root / 2)


def rounded(update: NDArray[np.float32], plan: NoisePlan, source: NoiseSource) -> Levels:
    """Return an update as whole numbers (N,), the square of whose L2 norm is at most ``plan.square``.

    Args:
        update: (N,); one with NaN or infinite values counts as 0, so that its client says nothing.
        plan: of the sum.
        source: of the random rounding.
    """
    exact = update.astype(np.float64)
    if not np.isfinite(exact).all():
        return np.zeros(len(exact), np.int64)
    norm = math.sqrt(float(exact @ exact))
    if norm > plan.norm:
        exact *= plan.norm / norm
    np.clip(exact, -plan.limit, plan.limit, out=exact)
    exact *= plan.scale / plan.norm
    low = np.floor(exact)
    part = exact - low
    for _ in range(_TRIES):
        levels = (low + (source.uniform(len(exact)).numpy() < part)).astype(np.int64)
        if int(levels @ levels) <= plan.square:
            return levels
    levels = np.trunc(exact).astype(np.int64)
    # Rounded towards 0, nothing grows: only a fault of the arithmetic could get here.
    return levels if int(levels @ levels) <= plan.square else np.zeros_like(levels)


def noise_share(size: int, plan: NoisePlan, source: NoiseSource) -> Levels:
    """Return one client's share of the noise, whole numbers (size,)."""
    return discrete_gaussian(size, plan.variance, source)


def _levels(norm: float, limit: float, scale: int) -> int:
    return math.ceil(min(limit, norm) / norm * scale)
