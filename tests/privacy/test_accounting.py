"""The privacy cost of steps, compared with closed forms and known values."""

import math

import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from feddat.privacy.accounting import Steps, epsilon_of, noise_for, steps_within

DELTA = 1e-5


def gaussian_epsilon(mu, delta):
    """Return ε of the Gaussian mechanism of sensitivity/noise μ (Balle and Wang, ICML 2018, theorem 8)."""

    def delta_of(epsilon):
        upper = norm.cdf(mu / 2 - epsilon / mu)
        return upper - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)

    return brentq(lambda epsilon: delta_of(epsilon) - delta, 0, 100)


@pytest.mark.parametrize(("noise", "count", "releases"), [(1.0, 1, 1), (2.0, 4, 1), (3.0, 2, 2)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise, count, releases):
    expected = gaussian_epsilon(math.sqrt(count * releases) / noise, DELTA)
    found = epsilon_of([Steps(1.0, noise, releases, count)], DELTA)
    assert expected <= found <= expected * 1.01


def test_two_releases_of_a_sample_cost_what_one_with_less_noise_does():
    two = epsilon_of([Steps(0.1, 2.0, 2, 50)], DELTA)
    assert two == pytest.approx(epsilon_of([Steps(0.1, math.sqrt(2), 1, 50)], DELTA), rel=1e-6)
    # They cost at least as much as two samples with one release each.
    assert two >= epsilon_of([Steps(0.1, 2.0, 1, 100)], DELTA) * 0.999


def test_the_example_that_everybody_knows():
    # Abadi et al. 2016, section 3.2: for q = 0.01, σ = 4, 10,000 steps and δ = 1e-5, the moments accountant, which is
    # looser, gives 1.26.
    central_limit = gaussian_epsilon(0.01 * 100 * math.sqrt(math.exp(1 / 16) - 1), DELTA)  # Bu et al. 2020, theorem 5
    assert central_limit < epsilon_of([Steps(0.01, 4.0, 1, 10_000)], DELTA) < 1.26


def test_nothing_costs_nothing_and_no_noise_everything():
    assert epsilon_of([], DELTA) == epsilon_of([Steps(0.5, 1.0, 1, 0)], DELTA) == 0.0
    assert epsilon_of([Steps(0.5, 0.0, 1, 1)], DELTA) == math.inf


@settings(max_examples=8)
@given(
    st.sampled_from([1.0, 3.0, 8.0]), st.sampled_from([0.05, 0.2, 1.0]), st.sampled_from([1, 2]), st.integers(1, 200)
)
def test_the_noise_that_is_found_is_enough_and_not_much_more(epsilon, rate, releases, count):
    noise = noise_for(epsilon, DELTA, rate, releases, count)
    assert epsilon_of([Steps(rate, noise, releases, count)], DELTA) <= epsilon
    assert epsilon_of([Steps(rate, 0.99 * noise, releases, count)], DELTA) > epsilon


def test_steps_within_a_budget_are_the_most_that_fit():
    most = steps_within(2.0, DELTA, 0.1, 1.5, 1)
    assert epsilon_of([Steps(0.1, 1.5, 1, most)], DELTA) <= 2.0 < epsilon_of([Steps(0.1, 1.5, 1, most + 1)], DELTA)
    assert steps_within(0.01, DELTA, 1.0, 0.5, 1) == 0


# --- noise that is a sum of discrete Gaussians ------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (2.0, 10), (6.0, 30)])
def test_concentrated_steps_are_between_the_gaussian_and_the_textbook(noise, count):
    """Bun and Steinke (TCC 2016), proposition 1.3: ρ-zCDP gives ε = ρ + 2 sqrt(ρ log(1/δ))."""
    found = epsilon_of([Steps(1.0, noise, 1, count, concentrated=True)], 1e-5)
    rho = count / (2 * noise**2)
    assert epsilon_of([Steps(1.0, noise, 1, count)], 1e-5) < found < rho + 2 * math.sqrt(rho * math.log(1e5))


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_concentrated_steps_cover_one_number_with_discrete_noise(noise):
    """In one dimension, the privacy loss of discrete Gaussian noise is known exactly."""
    exact = pld.privacy_loss_distribution.from_discrete_gaussian_mechanism(sigma=3 * noise, sensitivity=3)
    assert exact.get_epsilon_for_delta(1e-5) <= epsilon_of([Steps(1.0, noise, 1, 1, concentrated=True)], 1e-5)


def test_noise_for_concentrated_rounds_is_just_enough():
    noise = noise_for(3.0, 1e-4, 1.0, 1, 12, concentrated=True)
    assert epsilon_of([Steps(1.0, noise, 1, 12, concentrated=True)], 1e-4) <= 3.0
    assert epsilon_of([Steps(1.0, 0.99 * noise, 1, 12, concentrated=True)], 1e-4) > 3.0
    assert steps_within(3.0, 1e-4, 1.0, noise, 1, concentrated=True) == 12


def test_nothing_is_claimed_of_samples_of_concentrated_steps():
    with pytest.raises(ValueError, match="expected rate 1"):
        epsilon_of([Steps(0.5, 1.0, 1, 1, concentrated=True)], 1e-5)
