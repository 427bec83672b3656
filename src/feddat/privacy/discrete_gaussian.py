"""Discrete Gaussian noise, drawn exactly: whole numbers in, whole numbers out, no floating point in between.

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020 (arXiv 2004.00010), algorithms
1 to 3, for many numbers at once. Every decision compares a uniform integer with an integer. The one deviation: a
candidate of more than 44 standard deviations is rejected. It comes up with probability below e^-44 and would be
accepted with probability below e^-800.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from feddat.privacy.noise import NoiseSource

#: Variances that can be drawn: beyond the largest, products would leave 64 bits.
LEAST_VARIANCE, MOST_VARIANCE = 1, 2**24
#: Most steps of size t that a candidate has, where t is about one standard deviation.
_MOST_STEPS = 44
#: Candidates that are looked at together, at most.
_BLOCK = 2**18

Whole: TypeAlias = NDArray[np.int64]
Choice: TypeAlias = NDArray[np.bool_]


def discrete_gaussian(count: int, variance: int, source: NoiseSource) -> Whole:
    """Return ``count`` whole numbers, int64 (count,), with P(x) proportional to exp(-x² / (2 · variance)).

    Raises:
        ValueError: the variance is outside :data:`LEAST_VARIANCE` to :data:`MOST_VARIANCE`.
    """
    if not LEAST_VARIANCE <= variance <= MOST_VARIANCE:
        raise ValueError(f"a variance of {variance}, expected {LEAST_VARIANCE} to {MOST_VARIANCE}")
    scale = math.isqrt(variance) + 1
    parts: list[Whole] = []
    while count > 0:
        candidates = discrete_laplace(min(2 * count + 16, _BLOCK), scale, source)
        # Accept y with probability exp(-(|y| - variance / scale)² / (2 · variance)), over one denominator.
        over = (np.abs(candidates) * scale - variance) ** 2
        accepted: Whole = candidates[_exp_minus(over, 2 * variance * scale * scale, source)][:count]
        parts.append(accepted)
        count -= len(accepted)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def discrete_laplace(tries: int, scale: int, source: NoiseSource) -> Whole:
    """Return the accepted ones of ``tries`` candidates, int64, with P(x) proportional to exp(-|x| / scale)."""
    low = _below(scale, tries, source)
    low = low[_exp_minus(low, scale, source)]
    steps = np.zeros(len(low), np.int64)
    going = np.arange(len(low))
    for _ in range(_MOST_STEPS + 1):
        going = going[_exp_minus(np.ones(len(going), np.int64), 1, source)]
        steps[going] += 1
    size = low + scale * steps
    below_zero = _below(2, len(size), source) == 1
    # Without this, 0 would come from both signs and be twice too likely.
    kept = ~(below_zero & (size == 0)) & (steps <= _MOST_STEPS)
    return np.asarray(np.where(below_zero, -size, size)[kept], np.int64)


def _exp_minus(over: Whole, under: int, source: NoiseSource) -> Choice:
    """Return choices that are true with probability exp(-over / under) each."""
    chosen = np.ones(len(over), np.bool_)
    whole, rest = over // under, over % under
    going = np.flatnonzero(whole)
    turn = 1
    while len(going):
        kept = _exp_minus_fraction(np.ones(len(going), np.int64), 1, source)
        chosen[going[~kept]] = False
        going = going[kept]
        going = going[whole[going] > turn]
        turn += 1
    last = np.flatnonzero(chosen & (rest > 0))
    chosen[last] = _exp_minus_fraction(rest[last], under, source)
    return chosen


def _exp_minus_fraction(over: Whole, under: int, source: NoiseSource) -> Choice:
    """Return choices that are true with probability exp(-over / under) each, where over is at most under.

    Flips coins of probability over / (under · k) for k = 1, 2, ...; the first that fails decides by whether k is odd.
    """
    odd = np.zeros(len(over), np.bool_)
    going = np.arange(len(over))
    turn = 1
    while len(going):
        won = _below(under * turn, len(going), source) < over[going]
        odd[going[~won]] = turn % 2 == 1
        going = going[won]
        turn += 1
    return odd


def _below(bound: int, count: int, source: NoiseSource) -> Whole:
    """Return whole numbers, int64 (count,), each from 0 to bound - 1 with the same probability."""
    if bound == 1:
        return np.zeros(count, np.int64)
    last = np.uint64(2**64 - 1 - 2**64 % bound)  # words up to here are a whole number of times the bound
    words = source.words(count)
    while len(again := np.flatnonzero(words > last)):
        words[again] = source.words(len(again))
    return (words % np.uint64(bound)).astype(np.int64)
