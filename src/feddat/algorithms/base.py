"""The interface of a local objective: one file per algorithm, no I/O, no federation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

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
    """What an algorithm may do with a client during one step: forward on a route, and the task's loss."""

    def logits(self, route: str) -> Tensor:
        """Return the current batch's logits (N, C) on ``route`` (``global``, ``local``, ``dat`` or ``none``).

        The route stays open for the backward pass.
        """
        ...

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss of the current batch's logits, a scalar."""
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

    def step(self, learner: Learner, optimizer: Optimizer, context: StepContext) -> dict[str, float]:
        """Take one optimisation step (or its half steps) on the current batch and return scalars to log."""
        ...
