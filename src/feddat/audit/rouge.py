"""ROUGE: how much of a text another one repeats.

After Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.

All figures are F1 = 2 · matches / (length of the one + length of the other), in units of n-grams or tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def rouge_n(found: Sequence[Hashable], truth: Sequence[Hashable], n: int) -> float:
    """Return ROUGE-N: the F1 of common n-grams; 0 if one of the two texts has none."""
    one, other = (Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in (found, truth))
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(found: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """Return ROUGE-L: the F1 of the longest common subsequence; 0 if one of the two texts is empty."""
    row = [0] * (len(truth) + 1)
    for token in found:
        before = row
        row = [0]
        for place, other in enumerate(truth):
            row.append(before[place] + 1 if token == other else max(before[place + 1], row[-1]))
    return _f1(row[-1], len(found), len(truth))


def rouge(found: Sequence[Hashable], truth: Sequence[Hashable]) -> tuple[float, float, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L."""
    return rouge_n(found, truth, 1), rouge_n(found, truth, 2), rouge_l(found, truth)


def closest(found: Sequence[Sequence[Hashable]], truths: Sequence[Sequence[Hashable]]) -> tuple[float, float, float]:
    """Return the means over true texts of ROUGE-1, -2 and -L, each with the found text whose sum is largest.

    Texts that are equal can share the one that was found.
    """
    if not truths:
        return 0.0, 0.0, 0.0
    best = [max((rouge(one, truth) for one in found), key=sum, default=(0.0, 0.0, 0.0)) for truth in truths]
    one, two, longest = (sum(row[i] for row in best) / len(best) for i in range(3))
    return one, two, longest


def _f1(common: int, one: int, other: int) -> float:
    return 2 * common / (one + other) if one and other else 0.0
