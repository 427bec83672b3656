"""How well a score tells members from non-members, with intervals.

For the people behind the records the true-positive rate at a low false-positive rate counts: an attack that names a few
of them without error is worse than one that is slightly better than a coin for everybody (Carlini et al., "Membership
Inference Attacks From First Principles", IEEE S&P 2022, section IV).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores: TypeAlias = NDArray[np.float64]

#: Number of bootstrap samples, and the level of intervals.
SAMPLES, LEVEL = 1000, 0.95
#: False-positive rates at which true-positive rates are reported.
RATES = (0.001, 0.01)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number between 0 and 1 with its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """Return value, lower and upper end."""
        return [self.value, self.low, self.high]


def auc(members: Scores, others: Scores) -> float:
    """Return the probability that a member's score (n,) is above a non-member's (m,). Ties count one half.

    Mann and Whitney, Annals of Mathematical Statistics 18(1), 1947.
    """
    ranks = stats.rankdata(np.concatenate([members, others]))
    count = len(members)
    above = ranks[:count].sum() - count * (count + 1) / 2
    return float(above / (count * len(others)))


def auc_estimate(members: Scores, others: Scores, generator: np.random.Generator) -> Estimate:
    """Return the AUC with a percentile bootstrap interval. Members and non-members are resampled separately.

    Raises:
        ValueError: there are no members or no non-members.
    """
    if not len(members) or not len(others):
        raise ValueError("an AUC needs members and non-members")
    drawn = [
        auc(
            members[generator.integers(len(members), size=len(members))],
            others[generator.integers(len(others), size=len(others))],
        )
        for _ in range(SAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(auc(members, others), float(low), float(high))


def true_positives(members: Scores, others: Scores, rate: float) -> Estimate:
    """Return the share of members above the lowest threshold that at most ``rate`` of the non-members exceed.

    With fewer than 1 / rate non-members the threshold is the highest non-member's score, and the rate cannot be told
    from 0. The interval is that of Clopper and Pearson (Biometrika 26(4), 1934), for a fixed threshold.

    Raises:
        ValueError: there are no members or no non-members.
    """
    if not len(members) or not len(others):
        raise ValueError("a true-positive rate needs members and non-members")
    allowed = int(np.floor(rate * len(others) + 1e-9))
    threshold = np.sort(others)[::-1][allowed]
    return share(int((members > threshold).sum()), len(members))


def share(hits: int, of: int) -> Estimate:
    """Return the share of hits in independent draws, with its Clopper-Pearson interval.

    Raises:
        ValueError: there were no draws.
    """
    if of < 1:
        raise ValueError("a share of nothing has no interval")
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Estimate(hits / of, low, high)


def roc(members: Scores, others: Scores) -> tuple[Scores, Scores]:
    """Return false- and true-positive rates at every threshold, in ascending order from 0 to 1."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    false = np.searchsorted(np.sort(-others), -thresholds, side="right") / len(others)
    true = np.searchsorted(np.sort(-members), -thresholds, side="right") / len(members)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def summary(members: Scores, others: Scores, generator: np.random.Generator) -> dict[str, Any]:
    """Return AUC and true-positive rates with intervals, and the numbers of examples, for JSON."""
    found: dict[str, Any] = {"members": len(members), "non_members": len(others)}
    found["auc"] = auc_estimate(members, others, generator).to_json()
    found["tpr"] = {f"{rate:g}": true_positives(members, others, rate).to_json() for rate in RATES}
    return found
