"""ROUGE on texts short enough to count by hand."""

import pytest

from feddat.audit.rouge import closest, rouge_l, rouge_n

CAT = "the cat sat on the mat".split()


def test_common_words_and_pairs_are_counted():
    other = "the cat on the mat".split()
    assert rouge_n(other, CAT, 1) == pytest.approx(2 * 5 / 11)
    # Pairs: the-cat, on-the, the-mat of 4 and of 5.
    assert rouge_n(other, CAT, 2) == pytest.approx(2 * 3 / 9)
    assert rouge_l(other, CAT) == pytest.approx(2 * 5 / 11)


def test_order_counts_for_all_but_single_words():
    turned = CAT[::-1]
    assert rouge_n(turned, CAT, 1) == 1.0
    # "the", one word between, "the": three in the same order in both.
    assert rouge_n(turned, CAT, 2) == 0.0 and rouge_l(turned, CAT) == pytest.approx(0.5)
    # A word that is repeated counts as often as it is in both.
    assert rouge_n(["the"] * 4, CAT, 1) == pytest.approx(2 * 2 / 10)


def test_nothing_is_like_nothing():
    assert rouge_n([], CAT, 1) == rouge_l(CAT, []) == rouge_n(["cat"], ["cat"], 2) == 0.0


def test_each_true_text_takes_the_closest():
    assert closest([CAT, ["dog"]], [CAT, CAT]) == (1.0, 1.0, 1.0)
    assert closest([CAT], [CAT, ["dog"]]) == (0.5, 0.5, 0.5)
    assert closest([], [CAT]) == closest([CAT], []) == (0.0, 0.0, 0.0)
