"""Answers that are a mixture of two routes' probabilities, with a weight that each client chooses on validation data.

    p(y) = w · p_first(y) + (1 − w) · p_second(y)

A client knows best which of its routes serves it: where clients have everything in common, that is the global adapter;
where they differ in kind, the personal one. The choice costs one pass of the validation examples on each route, at an
evaluation and not in training. The weight stays with the client, and is chosen anew each time, since adapters change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from feddat.algorithms.base import Algorithm, Learner, RoundContext

#: Key of the chosen weight w in a client's state.
WEIGHT = "weight"
#: The candidates for w, and the value without validation data.
GRID, UNKNOWN = tuple(step / 10 for step in range(11)), 0.5


class MixedAnswers(Algorithm):
    """A method whose first route, ``mixed``, is the mixture of two of its other routes.

    Attributes:
        mixes: the first and the second of these routes.
    """

    mixes: ClassVar[tuple[str, str]]

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Store the best w of :data:`GRID` on the validation data in the state; without such data, store nothing."""
        found = []
        for _ in learner.held_out():
            first, second = (self.answer(learner, route, context) for route in self.mixes)
            found.append(torch.stack([learner.scores(mixed(first, second, weight)) for weight in GRID]))
        if found:
            best = best_weight(torch.cat(found, dim=1).double().mean(dim=1).tolist())
            context.state[WEIGHT] = torch.tensor(best)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on one route, or the log-probabilities of the mixture, (N, C)."""
        if route != "mixed":
            return super().answer(learner, route, context)
        first, second = (self.answer(learner, name, context) for name in self.mixes)
        return mixed(first, second, _weight(context))

    def mixed_routes(self, route: str, context: RoundContext) -> Mapping[str, float]:
        """Return both routes of ``mixed`` with their weights, without one of weight 0."""
        if route != "mixed":
            return super().mixed_routes(route, context)
        weights = dict(zip(self.mixes, (_weight(context), 1 - _weight(context)), strict=True))
        return {name: weight for name, weight in weights.items() if weight}


def _weight(context: RoundContext) -> float:
    weight = context.state.get(WEIGHT)
    return UNKNOWN if weight is None else round(weight.item(), 1)


def mixed(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Return log(w · p_first + (1 − w) · p_second), (N, C), of two routes' scores (N, C), each softmaxed.

    Scores of −inf (written answers that were not considered) have probability 0. Where a route has just one answer, the
    score is its log-likelihood and stays as it is. A route of weight 0 is ignored.
    """
    if weight == 0.0:
        return second
    if weight == 1.0:
        return first
    logs = [_log_probabilities(scores) for scores in (first, second)]
    return torch.logaddexp(logs[0] + math.log(weight), logs[1] + math.log(1 - weight))


def _log_probabilities(scores: Tensor) -> Tensor:
    several = scores.isfinite().sum(dim=1, keepdim=True) > 1
    # The softmax of a row that holds only −inf is NaN.
    return torch.where(several, torch.log_softmax(scores, dim=1), scores)


def best_weight(scores: list[float]) -> float:
    """Return the weight of :data:`GRID` with the highest score, averaged with its neighbours' scores.

    Of equal ones, the weight nearest to ½ is returned.
    """
    smooth = []
    for place in range(len(GRID)):
        around = scores[max(0, place - 1) : place + 2]
        smooth.append(sum(around) / len(around))
    return max(zip(smooth, GRID, strict=True), key=lambda pair: (round(pair[0], 6), -abs(pair[1] - 0.5)))[1]
