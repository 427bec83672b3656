"""Noise that clients add in shares: the sensitivity of the sum, how much noise is left, and that sums are exact."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from summing import Attempt

from feddat.privacy.noise import NoiseSource
from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.shares_of_noise import MOST_LOSS, noise_share, plan_noise, rounded
from feddat.privacy.secure_sum.terms import Rules, enough, plan_of

RULES = Rules(bits=16, clip=0.5, norm=1.0, noise=1.0, colluders=1)


def whole(bound):
    return {"min_value": -bound, "max_value": bound, "allow_nan": False, "width": 32}


class NoisyAttempt(Attempt):
    """An attempt in which each client's name is the seed of its noise."""

    def source(self, name):
        return NoiseSource.seeded(5, name)

    def masked(self, name):
        sharers = self.terms.bitmap(self.server.sharers)
        sealed = self.server.sealed_for(name)
        found, self.left[name] = self.clients[name].mask(
            sharers, sealed, self.updates[name], self.channels[name], self.source(name)
        )
        return found

    def noisy(self, names):
        """Return the sum of rounded updates and noise of some clients, without any masks."""
        total = np.zeros(self.terms.size, np.int64)
        for name in names:
            source = self.source(name)
            total += rounded(self.updates[name], self.terms.plan, source)
            total += noise_share(self.terms.size, self.terms.plan, source)
        return total


def test_a_plan_by_hand():
    plan = plan_noise(clients=4, honest=2, size=9, bits=12, limit=0.5, norm=1.0, multiplier=2.0)
    # D² = S² + 9 / 4 + S + 3 / 2, below (S + 3)²; each of the two honest clients adds half of (2 D)².
    square = plan.scale**2 + plan.scale + 3.75
    assert plan.square == math.floor(square) and plan.variance == math.ceil(4 * plan.square / 2)
    assert plan.levels == math.ceil(plan.scale / 2) and plan.step == 1 / plan.scale
    room = 4 * plan.levels + 7 * math.sqrt(4 * plan.variance)
    assert room < 2**11 < room * (plan.scale + 2) / plan.scale, "and no finer one fits"


@pytest.mark.parametrize(("clients", "clip", "times"), [(5, 0.01, 40), (20, 0.01, 10), (20, 0.5, None)])
def test_how_far_one_client_can_move_a_number_of_the_mean(clients, clip, times):
    """To the end of the ring: what an honest client can, and seven standard deviations of the mean's noise."""
    rules = Rules(bits=16, clip=clip, norm=0.05, noise=3.5, colluders=1)
    plan = plan_of(rules, clients, 65_000)
    end = fixed_point.from_ring(fixed_point.to_ring(np.array([2**15 - 1]), 16), 16, 2**15)
    found = float(fixed_point.mean(end, plan.step, clients)[0])
    noise = math.sqrt(clients * plan.variance) * plan.step / clients
    assert found == pytest.approx(min(clip, 0.05) + 7 * noise, rel=0.01)
    assert times is None or round(found / clip) == times


@settings(max_examples=60)
@given(
    st.integers(3, 200),
    st.floats(0.5, 0.95),
    st.integers(0, 3),
    st.integers(1, 5000),
    st.floats(0.3, 8),
)
def test_the_noise_of_those_who_must_stay_and_do_not_collude_is_enough(clients, threshold, colluders, size, noise):
    rules = Rules(threshold=threshold, bits=24, clip=0.01, norm=0.1, noise=noise, colluders=colluders)
    honest = enough(rules, clients) - colluders
    try:
        plan = plan_of(rules, clients, size)
    except SumError as error:
        assert honest < 1 or "no number of bits" in str(error) or "are too few" in str(error)
        return
    assert honest * plan.variance >= noise**2 * plan.square
    assert plan.scale <= math.sqrt(plan.square) <= MOST_LOSS * plan.scale
    assert clients * plan.levels + 7 * math.sqrt(clients * plan.variance) < 2**23 + 1


@settings(max_examples=100)
@given(arrays(np.float32, 40, elements=st.floats(**whole(2.0**60))), st.integers(0, 2**32))
def test_no_update_has_a_larger_norm_once_it_is_rounded(update, seed):
    plan = plan_noise(5, 2, 40, 14, 0.5, 1.0, 1.0)
    levels = rounded(update, plan, NoiseSource.seeded(seed))
    assert int(levels @ levels) <= plan.square
    assert np.abs(levels).max() <= plan.levels


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_says_nothing(wrong):
    plan = plan_noise(5, 2, 3, 14, 0.5, 1.0, 1.0)
    assert rounded(np.array([0.1, wrong, 0.2], np.float32), plan, NoiseSource.seeded(0)).tolist() == [0, 0, 0]


def test_rounding_is_right_on_average():
    plan = plan_noise(5, 2, 3, 12, 0.5, 1.0, 1.0)
    update = np.array([0.3, -0.123, 0.001], np.float32)
    drawn = np.array([rounded(update, plan, NoiseSource.seeded(at)) for at in range(4000)])
    assert np.abs(drawn.mean(axis=0) - update * plan.scale).max() < 5 * 0.5 / math.sqrt(4000)
    assert np.abs(drawn - update * plan.scale).max() < 1


@pytest.mark.parametrize("gone", [{}, {"mask": ("c1",)}, {"reveal": ("c4",)}, {"mask": ("c0",), "agree": ("c3",)}])
def test_the_sum_is_that_of_updates_and_noise_to_the_last_bit(gone):
    generator = np.random.default_rng(1)
    updates = {f"c{at}": generator.normal(0, 0.2, 7).astype(np.float32) for at in range(5)}
    attempt = NoisyAttempt(updates, RULES)
    total = attempt.run_all(gone)
    inside = [name for name in updates if name not in gone.get("mask", ())]
    assert total.tolist() == attempt.noisy(inside).tolist()
    assert total.tolist() != sum(rounded(updates[n], attempt.terms.plan, attempt.source(n)) for n in inside).tolist()
    assert all((left == 0).all() for left in attempt.left.values())
    mean = fixed_point.mean(total, attempt.terms.step, len(inside))
    clipped = [u * min(1, 1 / float(np.linalg.norm(u))) for u in (updates[name] for name in inside)]
    # All clients in the sum add noise, although that of two honest ones would be enough.
    spread = attempt.terms.step * math.sqrt(attempt.terms.plan.variance / len(inside))
    assert np.abs(mean - np.mean(clipped, axis=0)).max() < 5 * spread + attempt.terms.step


@pytest.mark.parametrize(("variance", "count"), [(0.35, 2), (0.5, 3), (1.0, 2), (1.0, 4)])
def test_a_sum_of_discrete_gaussians_is_as_close_to_one_as_is_said(variance, count):
    """Lemma 8 of docs/privacy.md in numbers, at variances far below those in use, where the difference is visible."""
    values = np.arange(-200, 201)
    one = np.exp(-(values**2) / (2 * variance))
    total = one = one / one.sum()
    for _ in range(count - 1):
        total = np.convolve(total, one)
    middle, shown = len(total) // 2, np.arange(-12, 13)
    wide = np.exp(-(np.arange(-2000, 2001) ** 2) / (2 * count * variance)).sum()
    ideal = np.exp(-(shown**2) / (2 * count * variance)) / wide
    bound = 5 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, count))
    assert np.abs(np.log(total[middle - 12 : middle + 13] / ideal)).max() <= bound


def test_noise_comes_from_the_system_where_no_source_is_given():
    updates = {f"c{at}": np.zeros(50, np.float32) for at in range(3)}
    assert Attempt(updates, RULES).run_all().tolist() != Attempt(updates, RULES).run_all().tolist()


def test_what_does_not_fit_is_refused_with_what_to_set():
    with pytest.raises(
        SumError, match=r"secure_aggregation\.bits: 12 are too few for the noise of 100 clients; set at"
    ):
        plan_noise(100, 50, 65_000, 12, 0.01, 0.05, 1.0)
    with pytest.raises(SumError, match=r"noise of 0 clients is left .* lower privacy\.colluders"):
        plan_of(Rules(bits=16, noise=1.0, norm=1.0, colluders=3), 3, 10)
    with pytest.raises(SumError, match="no number of bits has room"):
        plan_noise(3, 1, 10**6, 16, 0.01, 0.05, 100.0)
