"""A lower bound on ε from one training run, after Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training
Run", NeurIPS 2023, arXiv 2305.08846.

A fair coin decides for each of m canaries whether it joins the training data. The attacker sees the result, and guesses
for r of them which side the coin fell on. If training is (ε, δ)-differentially private, the number of right guesses is
hardly above Binomial(r, 1 / (1 + e^−ε)). The number of right guesses therefore gives a lower bound on ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from feddat.audit.statistics import Scores

#: Probability that the bound is wrong.
ERROR = 0.05
#: Shares of the canaries that are guessed. The best bound counts, after a correction for the choice.
SHARES = (0.1, 0.25, 0.5, 1.0)
#: Largest ε that is tried.
_MOST = 50.0


@dataclass(frozen=True, slots=True)
class Bound:
    """What canaries say about a run.

    Attributes:
        epsilon: lower bound on ε, wrong with probability :data:`ERROR` at most; 0: nothing was found.
        canaries: m, all of them.
        guesses: r, those that were guessed.
        right: guesses that were right.
    """

    epsilon: float
    canaries: int
    guesses: int
    right: int

    def to_json(self) -> dict[str, Any]:
        """Return the bound for JSON."""
        return {"epsilon": self.epsilon, "canaries": self.canaries, "guesses": self.guesses, "right": self.right}


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of this many right guesses, if training is (ε, δ)-differentially private.

    Theorem 5.2 of the paper: with V ~ Binomial(r, e^ε / (e^ε + 1)),
    P[W ≥ v] ≤ P[V ≥ v] + 2 m δ · max_i P[v > V ≥ v − i] / i.

    Args:
        canaries: m.
        guesses: r.
        right: v.
        epsilon: ε ≥ 0.
        delta: δ in [0, 1].

    Raises:
        ValueError: not 0 ≤ v ≤ r ≤ m.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(
            f"{right} right of {guesses} guesses on {canaries} canaries: expected right ≤ guesses ≤ canaries"
        )
    accuracy = 1 / (1 + np.exp(-epsilon))
    at_least = float(stats.binom.sf(right - 1, guesses, accuracy))
    if delta == 0 or right == 0:
        return min(1.0, at_least)
    below = stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, accuracy).cumsum()
    most = float((below / np.arange(1, right + 1)).max())
    return min(1.0, at_least + 2 * canaries * delta * most)


def epsilon_bound(canaries: int, guesses: int, right: int, delta: float, error: float = ERROR) -> float:
    """Return the largest ε that this many right guesses rule out, with error probability ``error``; 0: none."""
    if p_value(canaries, guesses, right, 0.0, delta) >= error:
        return 0.0
    low, high = 0.0, _MOST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, right, middle, delta) < error else (low, middle)
    return low


def audit_scores(scores: Scores, inside: np.typing.NDArray[np.bool_], delta: float) -> Bound:
    """Return the best bound over several numbers of guesses.

    The attacker guesses that the r / 2 highest scores were inside and the r / 2 lowest outside. Each number of guesses
    gets its part of the error (Bonferroni), which corrects for choosing the best.

    Args:
        scores: (m,), higher for canaries that are more likely inside.
        inside: (m,), how the coins fell.
        delta: δ.

    Raises:
        ValueError: there are no canaries.
    """
    count = len(scores)
    if not count:
        raise ValueError("a bound needs canaries")
    order = np.argsort(scores, kind="stable")
    found = []
    for share in SHARES:
        half = max(1, int(share * count / 2))
        if 2 * half > count:
            continue
        right = int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum())
        bound = epsilon_bound(count, 2 * half, right, delta, ERROR / len(SHARES))
        found.append(Bound(bound, count, 2 * half, right))
    return max(found, key=lambda bound: (bound.epsilon, bound.right / bound.guesses), default=Bound(0.0, count, 0, 0))
