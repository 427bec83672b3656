"""Discrete Gaussian noise: its distribution, the parts that it is made of, and its seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddat.privacy.discrete_gaussian import (
    LEAST_VARIANCE,
    MOST_VARIANCE,
    _below,
    _exp_minus,
    discrete_gaussian,
    discrete_laplace,
)
from feddat.privacy.noise import NoiseSource


def fits(found, values, weights):
    """Return whether counts of whole numbers fit probabilities: chi-square within five standard deviations."""
    expected = weights / weights.sum() * len(found)
    large = expected > 5
    counts = np.array([(found == value).sum() for value in values])
    square = ((counts - expected)[large] ** 2 / expected[large]).sum()
    degrees = large.sum() - 1
    return square < degrees + 5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("variance", [1, 2, 9, 60])
def test_it_is_the_discrete_gaussian(variance):
    found = discrete_gaussian(60_000, variance, NoiseSource.seeded(variance))
    values = np.arange(-60, 61)
    assert found.dtype == np.int64 and found.shape == (60_000,)
    assert fits(found, values, np.exp(-(values**2) / (2 * variance)))
    # At small variances, a continuous Gaussian rounded to whole numbers does not fit.
    rounded = np.rint(np.random.default_rng(0).normal(0, math.sqrt(variance), 60_000))
    assert variance > 2 or not fits(rounded, values, np.exp(-(values**2) / (2 * variance)))


def test_a_large_variance_is_met():
    found = discrete_gaussian(40_000, MOST_VARIANCE, NoiseSource.seeded(1))
    assert abs(found.mean()) < 5 * math.sqrt(MOST_VARIANCE / 40_000)
    assert abs((found.astype(float) ** 2).mean() / MOST_VARIANCE - 1) < 5 * math.sqrt(2 / 40_000)


def test_it_begins_as_a_discrete_laplace():
    values = np.arange(-60, 61)
    assert fits(discrete_laplace(60_000, 3, NoiseSource.seeded(0)), values, np.exp(-np.abs(values) / 3))


@pytest.mark.parametrize(("over", "under"), [(0, 1), (1, 7), (7, 7), (5, 2), (12, 3)])
def test_a_choice_has_the_probability_of_an_exponential(over, under):
    chosen = _exp_minus(np.full(40_000, over), under, NoiseSource.seeded(over, under))
    exact = math.exp(-over / under)
    assert abs(chosen.mean() - exact) <= 5 * math.sqrt(exact * (1 - exact) / 40_000)


@given(st.integers(1, 2**62), st.integers(0, 30), st.integers(0, 2**32))
def test_whole_numbers_below_a_bound(bound, count, seed):
    found = _below(bound, count, NoiseSource.seeded(seed))
    assert found.shape == (count,) and ((found >= 0) & (found < bound)).all()


def test_whole_numbers_below_a_bound_are_as_likely():
    # Words of 64 bits above the largest multiple of the bound are drawn again, so that no number is favoured.
    assert fits(_below(5, 50_000, NoiseSource.seeded(3)), np.arange(5), np.ones(5))


@given(st.integers(0, 40), st.integers(LEAST_VARIANCE, 500), st.integers(0, 2**32))
def test_a_seed_gives_the_same_numbers(count, variance, seed):
    one, other = (discrete_gaussian(count, variance, NoiseSource.seeded(seed)) for _ in range(2))
    assert one.shape == (count,) and (one == other).all()


@pytest.mark.parametrize("variance", [0, MOST_VARIANCE + 1])
def test_other_variances_are_refused(variance):
    with pytest.raises(ValueError, match=f"a variance of {variance}, expected 1 to"):
        discrete_gaussian(1, variance, NoiseSource.seeded(0))
