"""The interface of a local objective: one file per algorithm, no I/O, no federation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from feddat.config import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class StepContext:
    """Where a step stands.

    Attributes:
        round: current round, 1-based.
        rounds: planned rounds.
        config: the algorithm's settings.
    """

    round: int
    rounds: int
    config: AlgorithmConfig


class Learner(Protocol):
    """What an algorithm may do with a client during one step: forward on a route, the task's loss, one update."""

    def features(self, route: str) -> Tensor:
        """Return the current batch's pooled features (N * V, d) on ``route``: ``global``, ``local``, ``dat``, ``none``.

        Several routes' features may wait for their backward pass at once.
        """
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Return the personal head's logits (N, C), float32 or wider."""
        ...

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss of the current batch's logits, a scalar."""
        ...

    def update(self, loss: Tensor) -> None:
        """Drop all gradients, run backward on ``loss`` and take one optimizer step.

        A parameter that ``loss`` does not depend on has no gradient and does not move: no momentum, no weight decay.
        """
        ...


class Algorithm(Protocol):
    """A local objective and the table of what it trains, sends and answers with.

    Attributes:
        name: key in :data:`feddat.algorithms.ALGORITHMS`.
        trains: adapters that get gradients: subset of ``("global", "local")``; the head always trains.
        communicates: whether the global adapter travels.
        centralised: one place holds every client's data.
        routes: route names evaluated, in the order of reports; the first is the method's own answer.
    """

    name: str
    trains: tuple[str, ...]
    communicates: bool
    centralised: bool
    routes: tuple[str, ...]

    def step(self, learner: Learner, context: StepContext) -> dict[str, Tensor]:
        """Take one optimisation step (or its half steps) on the current batch.

        Returns:
            Detached scalars to log; always the same keys, ``loss`` among them.
        """
        ...


def task_step(learner: Learner, route: str) -> dict[str, Tensor]:
    """Take one step on the task loss alone, on one route: what every method without distillation does."""
    loss = learner.task_loss(learner.logits(learner.features(route)))
    learner.update(loss)
    return {"loss": loss.detach()}
