"""The paired bootstrap, on tables with a bootstrap distribution that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from feddat.report.significance import Difference, Scores, paired_difference


def scores(*rows: dict[str, float]) -> dict[int, dict[str, float]]:
    return dict(enumerate(rows))


def test_what_differs_always_by_the_same_has_no_interval() -> None:
    ours = scores({"a": 50.0, "b": 20.0}, {"a": 60.0, "b": 90.0})
    theirs = scores({"a": 48.0, "b": 18.0}, {"a": 58.0, "b": 88.0})
    found = paired_difference(ours, theirs)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.clear


def test_two_clients_of_one_seed() -> None:
    # The mean of two draws from {0, 2} is 0, 1 or 2 with probability 1/4, 1/2, 1/4: more than 2.5 % at either end.
    # So the percentiles are 0 and 2. The t interval of {0, 2} is 1 ± 12.706: √2 · 12.706 / 1.960 = 9.168 times as far.
    found = paired_difference(scores({"a": 50.0, "b": 52.0}), scores({"a": 50.0, "b": 50.0}))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1 - 9.1679, 1 + 9.1679), abs=1e-3)
    assert not found.clear


def test_an_interval_of_percentages_ends_at_100() -> None:
    found = paired_difference(scores({"a": 90.0, "b": 50.0}), scores({"a": 50.0, "b": 50.0}))
    assert found == Difference(20.0, -100.0, 100.0)


def test_few_clients_have_the_t_interval() -> None:
    """Five normal differences of one seed: the interval is as long as Student's, to the bootstrap's own precision."""
    values = [3.1, -0.4, 1.7, 2.2, 0.6]
    found = paired_difference(scores(dict(zip("abcde", values, strict=True))), scores(dict.fromkeys("abcde", 0.0)))
    t = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert found is not None
    assert found.high - found.low == pytest.approx(t.high - t.low, rel=0.05)
    assert (found.low > 0) == (t.low > 0)


def test_intervals_contain_the_true_mean_as_often_as_they_say() -> None:
    """Four clients, one seed, a true difference of 0: 95 of 100 intervals contain it; plain percentiles 81."""
    generator = np.random.default_rng(0)
    draws = [dict(zip("abcd", generator.normal(size=4), strict=True)) for _ in range(200)]
    found = [paired_difference({0: draw}, {0: dict.fromkeys("abcd", 0.0)}) for draw in draws]
    assert sum(one is not None and not one.clear for one in found) >= 180


def test_rows_and_columns_are_drawn_whole() -> None:
    # One seed gains 2 on each of ten clients, the other gains nothing. If the twenty cells were drawn one by one, a
    # mean of 0 would hardly ever occur; with whole seeds it occurs a quarter of the time. Ten clients: t₉ = 2.2622.
    clients = [str(i) for i in range(10)]
    ours = scores(dict.fromkeys(clients, 52.0), dict.fromkeys(clients, 50.0))
    theirs = scores(*[dict.fromkeys(clients, 50.0)] * 2)
    found = paired_difference(ours, theirs)
    assert found is not None
    wider = 2.2622 / 1.9600 * (10 / 9) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1 - wider, 1 + wider), abs=1e-3)


def test_only_what_both_have_is_paired() -> None:
    ours = {0: {"a": 51.0, "b": 50.0}, 1: {"a": 51.0, "c": 0.0}, 7: {"a": 99.0}}
    theirs = {0: {"a": 50.0, "b": 90.0}, 1: {"a": 50.0, "b": 90.0}}
    found = paired_difference(ours, theirs)  # seeds 0 and 1, client a
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize("theirs", [{}, {1: {"a": 1.0, "b": 2.0}}, {0: {"a": 1.0}}, {0: {"z": 1.0}}])
def test_a_single_pair_has_no_interval(theirs: Scores) -> None:
    assert paired_difference({0: {"a": 1.0, "b": 2.0}}, theirs) is None


@settings(max_examples=25)
@given(
    table=st.lists(st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_an_interval_contains_the_mean_and_turns_with_the_sign(table: list[list[float]]) -> None:
    ours = {seed: dict(zip("abc", row, strict=True)) for seed, row in enumerate(table)}
    theirs = {seed: dict.fromkeys("abc", 0.0) for seed in ours}
    found, turned = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert found is not None and turned is not None
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-9)


def test_in_print() -> None:
    assert str(Difference(-2.14, -3.0, 0.04)) == "−2.1 [−3.0, 0.0]"
    assert str(Difference(1.0, 0.25, 2.0)) == "+1.0 [+0.2, +2.0]"
