"""One client's round with privacy of records: the records of each step, and a learner that clips and adds noise.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016 (arXiv 1607.00133), algorithm 1. Any optimizer can use
the noisy sums, since that is post-processing. docs/privacy.md says what is released, and proves that it is private.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters, Route
from feddat.adapters.bottleneck import BottleneckLayer
from feddat.algorithms.base import MAIN_HEAD
from feddat.client.batches import steps_of_round
from feddat.client.budget import Budget
from feddat.client.learner import BatchLearner
from feddat.client.private_rules import releases
from feddat.client.store import PersonalStore
from feddat.config import RunConfig
from feddat.example import DataError
from feddat.phases import phase
from feddat.privacy.clipping import Clip
from feddat.privacy.example_gradients import ExampleGradients, entries, noisy
from feddat.privacy.noise import NoiseSource, poisson_sample


@dataclass(frozen=True)
class PrivateTurn:
    """How one round of a client is made private; its steps are already paid for.

    Attributes:
        plan: indices of the records of each step, drawn anew for each; a step can have none.
        expected: mean number of records of a step; sums are divided by it.
        clip: how far one record can move a noisy sum.
        noise: multiplier; the noise has a standard deviation of ``noise`` times the clip's norm.
        releases: largest number of noisy sums that a step can make.
        source: of the noise.
    """

    plan: tuple[Tensor, ...]
    expected: float
    clip: Clip
    noise: float
    releases: int
    source: NoiseSource


def open_turn(config: RunConfig, store: PersonalStore, records: int, round: int) -> PrivateTurn:
    """Pay for a round out of the client's budget, and draw its samples.

    Args:
        config: the run.
        store: the client's personal state.
        records: number of its training examples.
        round: 1-based.

    Raises:
        BudgetError: the round would go beyond the budget; nothing is spent.
        DataError: the client has no training examples, or δ is too large for their number.
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
    clip = Clip.of_samples(privacy.clip, rate * records)
    return PrivateTurn(plan, rate * records, clip, noise, per_step, source)


class PrivateLearner(BatchLearner):
    """A learner whose private parameters move only by noisy sums of clipped gradients.

    Args:
        turn: how the round is made private.
        private: name for error messages -> private parameter. All others learn without noise.
    """

    def __init__(self, *args: Any, turn: PrivateTurn, private: dict[str, nn.Parameter], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turn = turn
        self._record = ExampleGradients(private)
        self._releases = 0
        self._counts: Tensor

    def drawn(self, count: int) -> None:
        """Set the number of records in the current batch's sample; call it after :meth:`take`.

        Where a sample is empty, the batch has one example as a placeholder, which does not count.
        """
        self._releases = 0
        self._counts = torch.full((len(self._targets),), float(count > 0), device=self._targets.device)

    def features(self, route: Route) -> Tensor:
        """Return the batch's features on ``route``, and record the pass."""
        with self._record:
            return super().features(route)

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return the logits of one of the member's heads, and record the pass."""
        with self._record:
            return super().logits(features, head)

    def backward(self, loss: Tensor) -> None:
        """Run backward on ``loss``, a mean over the batch, and set private gradients to noisy sums."""
        self._record.clear()
        examples = len(self._counts)
        super().backward(loss * examples)  # the sum: see :mod:`feddat.privacy.example_gradients`
        for parameter in self._parameters:
            if parameter.grad is not None:  # what learns without noise learns from the mean
                parameter.grad.div_(examples)
        self._release(examples)

    @phase("backward")
    def _release(self, examples: int) -> None:
        sums = self._record.clipped_sums(self._turn.clip, examples, self._counts)
        self._record.clear()
        if not sums:
            return
        self._releases += 1
        if self._releases > self._turn.releases:
            raise RuntimeError(f"a step makes more than the {self._turn.releases} releases that are accounted for")
        noise = self._turn.source.normal(entries(sums.values()), self._counts.device)
        noisy(sums, noise.mul_(self._turn.noise * self._turn.clip.norm), self._turn.expected)


@contextmanager
def weights_apart(adapters: Adapters, apart: bool = True) -> Iterator[None]:
    """Keep bottleneck adapters from joining their weights, so that each use of a parameter can be recorded."""
    layers = [module for module in adapters.model.modules() if apart and isinstance(module, BottleneckLayer)]
    for layer in layers:
        layer.apart = True
    try:
        yield
    finally:
        for layer in layers:
            layer.apart = False
