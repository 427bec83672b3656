"""What the releases of a run add up to: (ε, δ) of Gaussian mechanisms, by privacy loss distributions.

Neighbours of unit ``record`` are two sets of records, one of which has one record more. A *step* samples every record
with one rate. Then it makes one or several releases of this sample; each is a sum of vectors of norm C at most, plus
normal noise of standard deviation σ·C per entry. k releases of one sample are together no more than a single one with
noise σ/√k: k Gaussian mechanisms, also adaptive ones, compose to the Gaussian mechanism of that noise (Dong, Roth, Su,
"Gaussian Differential Privacy", JRSS-B 2022, corollary 2), and Poisson sampling keeps that order (Zhu, Dong, Wang,
AISTATS 2022, theorem 11).

Neighbours of unit ``client`` are two runs, in one of which a client's updates are 0. A step is then a round in which
that client takes part: rate 1, one release. Where clients add the noise in shares, it is discrete, and what is known of
it is concentrated differential privacy: ρ = 1 / (2σ²) per round (Canonne, Kamath, Steinke, NeurIPS 2020, theorem 4).
docs/privacy.md has all arguments in full.

The sums are those of Google's ``dp-accounting`` (Doroshenko et al., "Connect the Dots", PoPETs 2022), rounded towards
more privacy loss; concentrated ones are Rényi divergences there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: How close the noise that is found is to the smallest that suffices, relative; it is never below that.
TOLERANCE = 2e-3
#: Noise multipliers that are tried: less noise protects nothing, more noise leaves nothing to learn.
LEAST_NOISE, MOST_NOISE = 0.2, 10_000.0
#: Below this multiplier, ε is in the hundreds for a single release and is not computed.
NO_NOISE = 0.05
#: Steps are counted up to this number.
MOST_STEPS = 1_000_000
#: Distance between the values of a privacy loss; a coarser one gives a larger ε.
_INTERVAL = 1e-3
#: Orders of Rényi accounting where it only says where a search begins, and where it is the result.
_ORDERS = (*range(2, 64), 128, 256)
_FINE_ORDERS = (*(1 + step / 20 for step in range(1, 200)), *range(11, 128), 256, 512, 1024)
#: What is kept of ε and δ for the distance of a sum of discrete Gaussians from a discrete Gaussian.
_SLACK = 1e-9


class MissingAccountant(RuntimeError):
    """The package that does the accounting is not installed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Some steps that are alike.

    Attributes:
        rate: probability in (0, 1] with which a record is in a step's sample.
        noise: σ, standard deviation of the noise divided by the clipping norm.
        releases: k, made of each sample.
        count: number of steps.
        concentrated: the noise is a sum of discrete Gaussians, known by its Rényi divergences; the rate is then 1.
    """

    rate: float
    noise: float
    releases: int
    count: int
    concentrated: bool = False


def epsilon_of(steps: Iterable[Steps], delta: float) -> float:
    """Return ε for δ of all steps together, never too small; infinite where there is next to no noise.

    Raises:
        MissingAccountant: ``dp-accounting`` is not installed.
        ValueError: steps with a rate below 1 are concentrated.
    """
    return _epsilon(tuple(part for part in steps if part.count), delta)


@lru_cache(maxsize=256)
def _epsilon(steps: tuple[Steps, ...], delta: float) -> float:
    if not steps:
        return 0.0
    if any(part.noise < NO_NOISE * math.sqrt(part.releases) for part in steps):
        return math.inf
    if any(part.concentrated for part in steps):
        return _concentrated_epsilon(steps, delta)
    dp = _accounting()
    accountant = dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=_INTERVAL)
    for part in steps:
        accountant.compose(_event(part), 1)
    return float(accountant.get_epsilon(delta))


def _concentrated_epsilon(steps: tuple[Steps, ...], delta: float) -> float:
    if any(part.rate < 1 for part in steps):
        raise ValueError("nothing is known about samples of concentrated mechanisms; expected rate 1")
    dp = _accounting()
    accountant = dp.rdp.RdpAccountant(_FINE_ORDERS)
    for part in steps:
        # The Gaussian mechanism has the same divergences: order · ρ.
        gaussian = dp.GaussianDpEvent(part.noise / math.sqrt(part.releases))
        accountant.compose(dp.SelfComposedDpEvent(gaussian, part.count), 1)
    return float(accountant.get_epsilon(delta * (1 - _SLACK))) + _SLACK


@lru_cache(maxsize=256)
def noise_for(
    epsilon: float, delta: float, rate: float, releases: int, count: int, concentrated: bool = False
) -> float:
    """Return the smallest noise multiplier σ with which ``count`` steps stay within (ε, δ), rounded up.

    Raises:
        ValueError: no noise is enough.
        MissingAccountant: ``dp-accounting`` is not installed.
    """

    def enough(noise: float) -> bool:
        return _epsilon((Steps(rate, noise, releases, count, concentrated),), delta) <= epsilon

    # Rényi accounting is quick and asks for more noise than is needed, so the search begins at its result.
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
def steps_within(
    epsilon: float, delta: float, rate: float, noise: float, releases: int, concentrated: bool = False
) -> int:
    """Return the largest number of steps that stay within (ε, δ).

    Raises:
        MissingAccountant: ``dp-accounting`` is not installed.
    """

    def within(count: int) -> bool:
        return _epsilon((Steps(rate, noise, releases, count, concentrated),), delta) <= epsilon

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
