"""What releases of a client add up to: (ε, δ) of the Poisson-sampled Gaussian mechanism by privacy loss distributions.

Neighbours are two sets of records of which one has one record more (add or remove one). A *step* samples every record
with one rate, and then makes one release or several of the same sample, each a sum of vectors of norm C at most plus
normal noise of standard deviation σ·C per entry.

k releases of one sample are together no more than a single one with noise σ/√k: k Gaussian mechanisms, also adaptive
ones, compose to the Gaussian mechanism of that noise (Dong, Roth, Su, "Gaussian Differential Privacy", JRSS-B 2022,
corollary 2), and Poisson sampling keeps that order (Zhu, Dong, Wang, AISTATS 2022, theorem 11). docs/privacy.md has the
argument in full.

The sums are those of Google's ``dp-accounting`` (Doroshenko et al., "Connect the Dots", PoPETs 2022), rounded towards
more privacy loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: How close the noise that is found is to the least that will do, relative; always on the safe side of it.
TOLERANCE = 2e-3
#: Noise multipliers that are looked at: less protects nothing, more leaves nothing to learn.
LEAST_NOISE, MOST_NOISE = 0.2, 10_000.0
#: Below this multiplier, ε is in the hundreds for a single release, and is not computed.
NO_NOISE = 0.05
#: Steps are counted up to this many.
MOST_STEPS = 1_000_000
#: Steps between the values of a privacy loss; a coarser one gives a larger ε.
_INTERVAL = 1e-3
#: Orders of Rényi accounting, which only gives where the search begins.
_ORDERS = (*range(2, 64), 128, 256)


class MissingAccountant(RuntimeError):
    """The package that does the sums is not installed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Some steps that are alike.

    Attributes:
        rate: probability with which a record is in a step's sample, of (0, 1].
        noise: σ, standard deviation of the noise divided by the clipping norm.
        releases: k, made of each sample.
        count: number of steps.
    """

    rate: float
    noise: float
    releases: int
    count: int


def epsilon_of(steps: Iterable[Steps], delta: float) -> float:
    """Return ε for δ of all steps together, never too small; infinite where there is next to no noise.

    Raises:
        MissingAccountant: ``dp-accounting`` is not installed.
    """
    return _epsilon(tuple(part for part in steps if part.count), delta)


@lru_cache(maxsize=256)
def _epsilon(steps: tuple[Steps, ...], delta: float) -> float:
    if not steps:
        return 0.0
    if any(part.noise < NO_NOISE * math.sqrt(part.releases) for part in steps):
        return math.inf
    dp = _accounting()
    accountant = dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=_INTERVAL)
    for part in steps:
        accountant.compose(_event(part), 1)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def noise_for(epsilon: float, delta: float, rate: float, releases: int, count: int) -> float:
    """Return the least noise multiplier σ with which so many steps stay within (ε, δ), rounded up.

    Raises:
        ValueError: no noise will do.
        MissingAccountant: ``dp-accounting`` is not installed.
    """

    def enough(noise: float) -> bool:
        return _epsilon((Steps(rate, noise, releases, count),), delta) <= epsilon

    # Rényi accounting is quick and asks for more noise than is needed, so it gives where to begin.
    high = _renyi_noise(epsilon, delta, rate, releases, count)
    while not enough(high):
        high *= 1.2
        if high > MOST_NOISE:
            raise ValueError(f"no noise multiplier up to {MOST_NOISE:g} keeps {count} steps within ε = {epsilon:g}")
    low = 0.8 * high
    while low > LEAST_NOISE and enough(low):
        low, high = 0.8 * low, low
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def steps_within(epsilon: float, delta: float, rate: float, noise: float, releases: int) -> int:
    """Return the most steps that stay within (ε, δ).

    Raises:
        MissingAccountant: ``dp-accounting`` is not installed.
    """

    def within(count: int) -> bool:
        return _epsilon((Steps(rate, noise, releases, count),), delta) <= epsilon

    if not within(1):
        return 0
    high = 2
    while within(high):
        high *= 2
        if high > MOST_STEPS:
            return MOST_STEPS
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def _renyi_noise(epsilon: float, delta: float, rate: float, releases: int, count: int) -> float:
    dp = _accounting()

    def enough(noise: float) -> bool:
        accountant = dp.rdp.RdpAccountant(_ORDERS)
        accountant.compose(_event(Steps(rate, noise, releases, count)), 1)
        return bool(accountant.get_epsilon(delta) <= epsilon)

    low, high = LEAST_NOISE, 1.0
    while high < MOST_NOISE and not enough(high):
        low, high = high, 2 * high
    for _ in range(8):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _event(part: Steps) -> Any:
    dp = _accounting()
    gaussian = dp.GaussianDpEvent(part.noise / math.sqrt(part.releases))
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(part.rate, gaussian), part.count)


def _accounting() -> Any:
    try:
        import dp_accounting
        from dp_accounting import pld, rdp  # noqa: F401  (submodules are attributes once they are imported)
    except ImportError:
        raise MissingAccountant("the package dp-accounting is missing: pip install 'feddat[privacy]'") from None
    return dp_accounting
