"""One client's round under differential privacy: the records of each step, and a learner that clips and adds noise.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (arXiv 1607.00133), algorithm 1, with whatever
optimizer: what it makes of noisy sums is post-processing. What is released, and why that is enough: docs/privacy.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters, Route
from feddat.adapters.bottleneck import BottleneckLayer
from feddat.algorithms.base import MAIN_HEAD
from feddat.client.budget import Budget
from feddat.client.learner import BatchLearner
from feddat.client.private_rules import releases
from feddat.client.store import PersonalStore
from feddat.config import RunConfig
from feddat.example import DataError
from feddat.phases import phase
from feddat.privacy.example_gradients import ExampleGradients, entries, noisy
from feddat.privacy.noise import NoiseSource, poisson_sample


@dataclass(frozen=True)
class PrivateTurn:
    """How one round of a client is made private; its steps are paid for.

    Attributes:
        plan: the records of each step, drawn anew for each; there may be none.
        expected: records that a step has on average, which sums are divided by.
        clip: norm that an example's gradient is clipped to.
        noise: multiplier; the noise has ``noise · clip`` as its standard deviation.
        releases: the most noisy sums that a step may make.
        source: of the noise.
    """

    plan: tuple[Tensor, ...]
    expected: float
    clip: float
    noise: float
    releases: int
    source: NoiseSource


def steps_of_round(config: RunConfig, records: int) -> int:
    """Return the steps of a client's round: as many as without privacy."""
    train = config.train
    return train.steps or train.epochs * math.ceil(records / train.batch_size)


def open_turn(config: RunConfig, store: PersonalStore, records: int, round: int) -> PrivateTurn:
    """Pay for a round out of the client's budget, and draw its samples.

    Args:
        config: the run.
        store: the client's personal state.
        records: number of its training examples.
        round: 1-based.

    Raises:
        BudgetError: the budget is not enough; nothing is spent.
        DataError: there is nothing to train on, or δ is too large for so few records.
        StoreError: the ledger cannot be read or written.
    """
    privacy, client = config.privacy, store.client
    if not records:
        raise DataError(f"client {client}: no training examples")
    if privacy.delta * records >= 1:
        raise DataError(
            f"client {client}: privacy.delta is {privacy.delta:g} for {records} records; expected below 1/{records}"
        )
    rate, steps = min(1.0, config.train.batch_size / records), steps_of_round(config, records)
    per_step = releases(config)
    noise = Budget(store, privacy).spend(rate, per_step, steps, config.rounds * steps)
    source = NoiseSource.secure()
    if privacy.noise_seed is not None:
        source = NoiseSource.seeded(privacy.noise_seed, client, round)
    plan = tuple(poisson_sample(records, rate, source) for _ in range(steps))
    return PrivateTurn(plan, rate * records, privacy.clip, noise, per_step, source)


class PrivateLearner(BatchLearner):
    """A learner whose private parameters move by noisy sums of clipped gradients, and by nothing else.

    Args:
        turn: the round's.
        private: the parameters that are private, by the names that errors give. All others learn as always.
    """

    def __init__(self, *args: Any, turn: PrivateTurn, private: dict[str, nn.Parameter], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turn = turn
        self._record = ExampleGradients(private)
        self._releases = 0
        self._counts: Tensor

    def drawn(self, count: int) -> None:
        """Say how many records the current batch's sample has; of none, its one example stands in and counts nothing.

        To be called after :meth:`take`.
        """
        self._releases = 0
        self._counts = torch.full((len(self._targets),), float(count > 0), device=self._targets.device)

    def features(self, route: Route) -> Tensor:
        """Return the batch's features on ``route``."""
        with self._record:
            return super().features(route)

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return the logits of one of the member's heads."""
        with self._record:
            return super().logits(features, head)

    def backward(self, loss: Tensor) -> None:
        """Run backward on ``loss``, a mean over the batch, and release noisy sums in place of private gradients."""
        self._record.clear()
        super().backward(loss)
        self._release()

    @phase("backward")
    def _release(self) -> None:
        examples = len(self._counts)
        sums = self._record.clipped_sums(self._turn.clip, examples, self._counts)
        self._record.clear()
        if not sums:
            return
        self._releases += 1
        if self._releases > self._turn.releases:
            raise RuntimeError(f"a step makes more releases than the {self._turn.releases} that are accounted for")
        noise = self._turn.source.normal(entries(sums.values()), self._counts.device)
        noisy(sums, noise.mul_(self._turn.noise * self._turn.clip), self._turn.expected)


@contextmanager
def weights_apart(adapters: Adapters, apart: bool = True) -> Iterator[None]:
    """Have bottleneck adapters use their weights as they are, not joined with others', so that uses can be seen."""
    layers = [module for module in adapters.model.modules() if apart and isinstance(module, BottleneckLayer)]
    for layer in layers:
        layer.apart = True
    try:
        yield
    finally:
        for layer in layers:
            layer.apart = False
