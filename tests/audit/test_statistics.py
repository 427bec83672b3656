"""Audit statistics against values worked out by hand or in closed form."""

import math

import numpy as np
import pytest

from feddat.audit import statistics
from feddat.audit.one_run import audit_scores, epsilon_bound, p_value


def scores(*values):
    return np.array(values, dtype=float)


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [
        ((3, 2), (1, 0), 1.0),
        ((0, 1), (2, 3), 0.0),
        ((1, 1), (1, 1), 0.5),
        ((1, 3), (2,), 0.5),
        ((2, 3), (1, 2), 3.5 / 4),
    ],
)
def test_an_auc_counts_pairs(members, others, expected):
    assert statistics.auc(scores(*members), scores(*others)) == pytest.approx(expected)


def test_an_interval_of_chance_holds_one_half_and_one_of_a_leak_does_not():
    generator = np.random.default_rng(0)
    members, others = generator.normal(size=300), generator.normal(size=300)
    chance = statistics.auc_estimate(members, others, np.random.default_rng(1))
    assert chance.low < 0.5 < chance.high and chance.high - chance.low < 0.15
    leak = statistics.auc_estimate(members + 0.5, others, np.random.default_rng(1))
    assert 0.5 < leak.low < leak.value < leak.high


def test_a_threshold_keeps_to_the_rate_of_mistakes():
    others = np.arange(100.0)
    # One false positive in a hundred is allowed: the threshold is the second highest non-member's score, 98.
    assert statistics.true_positives(scores(98.0, 98.5, 200.0, 3.0), others, 0.01).value == 0.5
    # No false positive is allowed: only scores above all 100 non-members count.
    assert statistics.true_positives(scores(98.0, 98.5, 200.0, 3.0), others, 0.001).value == 0.25


def test_a_shares_interval_is_clopper_and_pearsons():
    none = statistics.share(0, 10)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 10))
    every = statistics.share(10, 10)
    assert every.high == 1.0 and every.low == pytest.approx(0.025 ** (1 / 10))
    with pytest.raises(ValueError, match="a share of nothing"):
        statistics.share(0, 0)


def test_a_roc_curve_goes_through_its_corners():
    false, true = statistics.roc(scores(2, 1), scores(1, 0))
    assert list(zip(false.tolist(), true.tolist(), strict=True)) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]


def test_guesses_of_a_coin_prove_nothing_and_right_ones_bound_epsilon():
    assert epsilon_bound(10, 10, 5, 0.0) == 0.0
    # All r guesses are right: P[Binomial(r, q) ≥ r] = q^r, which is 0.05 at q = 0.05^(1/r), and ε = log(q / (1 − q)).
    accuracy = 0.05 ** (1 / 20)
    assert epsilon_bound(20, 20, 20, 0.0) == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=1e-3)


def test_delta_adds_what_the_theorem_says():
    # m = r = v = 1, ε = 0: P[V ≥ 1] = ½, and 2 m δ · P[1 > V ≥ 0] / 1 = 2 δ · ½.
    assert p_value(1, 1, 1, 0.0, 0.1) == pytest.approx(0.5 + 2 * 0.1 * 0.5)
    # m = r = v = 2: P[V = 2] = ¼; i = 1: P[V = 1] = ½; i = 2: (½ + ¼) / 2 = ⅜.
    assert p_value(2, 2, 2, 0.0, 0.01) == pytest.approx(0.25 + 2 * 2 * 0.01 * 0.5)
    with pytest.raises(ValueError, match="expected right ≤ guesses ≤ canaries"):
        p_value(2, 3, 1, 0.0, 0.0)


def test_randomised_response_is_not_bounded_above_its_epsilon():
    """At most 5 of 40 audits of a mechanism with a known ε put the lower bound above that ε."""
    epsilon, generator = 1.0, np.random.default_rng(0)
    found = []
    for _ in range(40):
        inside = generator.integers(2, size=200).astype(bool)
        told = np.where(generator.random(200) < 1 / (1 + math.exp(-epsilon)), inside, ~inside)
        bound = audit_scores(told + generator.normal(scale=1e-6, size=200), inside, 0.0)
        found.append(bound.epsilon)
    assert sum(bound > epsilon for bound in found) <= 5
    assert np.median(found) > 0.4
