"""The base of every local objective: one file per algorithm, no I/O, no federation.

A round on a client: the received adapter and the client's own state are put into the model; :meth:`Algorithm.begin`;
:meth:`Algorithm.step` on every batch; :meth:`Algorithm.finish`; what trained goes to the client's store and, of the
global adapter, what the algorithm shares to the server. Algorithms keep nothing in themselves: one object serves every
client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from feddat.adapters.base import ROUTES, Route
from feddat.algorithms.server import ServerPart
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

#: Name of the head that every member has.
MAIN_HEAD = "main"
#: In the names of LoRA's entries: the factor that is drawn at random, and the one that starts at 0; ΔW = scale · B · A.
LORA_A, LORA_B = ".lora_A.", ".lora_B."


@dataclass(slots=True)
class RoundContext:
    """One client's round: where it stands and what the algorithm remembers.

    Attributes:
        round: current round, 1-based.
        rounds: planned rounds.
        config: the algorithm's settings.
        previous: round in which this client last trained; ``None`` at its first.
        steps: local steps of this round.
        step: current local step, 0-based.
        received: the extra arrays that came with the adapter (:meth:`ServerPart.sends`, or in an
            evaluation :meth:`ServerPart.answers`).
        state: the client's own tensors, kept in its store from round to round.
        scratch: whatever the algorithm needs until the end of the round.
    """

    round: int
    rounds: int
    config: AlgorithmConfig
    previous: int | None = None
    steps: int = 1
    step: int = 0
    received: Mapping[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)


class Learner(Protocol):
    """What an algorithm may do with a client: forward on a route, the task's loss, updates, moves of whole adapters."""

    def features(self, route: Route) -> Tensor:
        """Return the current batch's features on a route: pooled (N * V, d), or of M written answers (M, L, d).

        Several routes' features may wait for their backward pass at once.
        """
        ...

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return a personal head's logits, (N, C) or of tokens (M, L, V), float32 or wider."""
        ...

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss of the current batch's logits, a scalar."""
        ...

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return KL_T(student ‖ teacher) of two of the current batch's logits, a scalar; the teacher is detached."""
        ...

    def answers(self, route: Route, head: str = MAIN_HEAD) -> Tensor:
        """Return the current batch's scores (N, C) of the task's classes on a route: the higher, the likelier."""
        ...

    def held_out(self) -> Iterator[None]:
        """Make each batch of the client's validation examples the current one, in turn; none: it has no such examples.

        The model is in evaluation mode and keeps no gradients inside the loop. In a round of training it is for
        :meth:`Algorithm.begin` and :meth:`Algorithm.finish` alone: a step would lose its batch.
        """
        ...

    def scores(self, answers: Tensor) -> Tensor:
        """Return the score in [0, 1] of each example of the current batch, (N,), for what :meth:`answers` returned."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Drop all gradients and run backward on ``loss``. Gradients can then be read and changed in place."""
        ...

    def step(self, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Take one optimizer step on the gradients at hand, clipped where configured.

        A parameter without gradient does not move: no momentum, no weight decay.

        Args:
            adapters: the only adapters that move; default: all with gradients.
            head: whether heads with gradients move.
        """
        ...

    def update(self, loss: Tensor, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Do :meth:`backward` and :meth:`step`: a parameter that ``loss`` does not depend on does not move."""
        ...

    def adapter(self, name: str) -> Mapping[str, Tensor]:
        """Return the parameters of an adapter that train, by name: to be read, or moved in place without autograd."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copy one adapter into another, whole."""
        ...

    def also_train(self, tensors: Iterable[Tensor]) -> None:
        """Let this round's optimizer move further leaf tensors that require gradients, without weight decay."""
        ...


class Algorithm(ABC):
    """A local objective and the table of what it trains, keeps, sends and answers with.

    Attributes:
        name: key in :data:`feddat.algorithms.ALGORITHMS`.
        trains: adapters that get gradients: subset of ``("global", "local")``; the heads always train.
        keeps: adapters in the client's store, of ``("local", "anchor")``: what trains, and what rests there between
            rounds. Entries of the global adapter that train and do not travel are kept too.
        communicates: whether the global adapter travels.
        centralised: one place holds every client's data.
        routes: names of the answers evaluated, in the order of reports; the first is the method's own.
        server: what the server does beside or instead of the plain mean; ``None``: any server rule may be used.
        kinds: kinds of adapter it works with (:data:`feddat.kinds.KINDS`), the default first; empty: every
            kind whose adapters can do what :attr:`routes` ask for.
        needs: what those kinds are, for messages.
        reads_features: whether it compares or weighs examples by their pooled features, (N, d).
        trains_head_alone: whether it has steps in which nothing but heads trains.
        logs: keys of what :meth:`step` returns; a server takes no others.
        logs_below_zero: whether any of them may be below 0; a server refuses such a value otherwise.
        local_from_global: whether a client's local adapter begins as the global one that it receives.
    """

    name: ClassVar[str]
    trains: ClassVar[tuple[str, ...]]
    keeps: ClassVar[tuple[str, ...]] = ()
    communicates: ClassVar[bool] = True
    centralised: ClassVar[bool] = False
    routes: ClassVar[tuple[str, ...]]
    server: ClassVar[ServerPart | None] = None
    kinds: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""
    reads_features: ClassVar[bool] = False
    trains_head_alone: ClassVar[bool] = False
    logs: ClassVar[tuple[str, ...]] = ("loss",)
    logs_below_zero: ClassVar[bool] = False
    local_from_global: ClassVar[bool] = False

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm for one run, given the names of an adapter's entries; most are the same for every run.

        Raises:
            ConfigError: settings do not go together.
        """
        return self

    @abstractmethod
    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one optimisation step (or its parts) on the current batch.

        Returns:
            Detached scalars to log; always the keys of :attr:`logs`, ``loss`` among them.
        """

    def shift(self, context: RoundContext) -> Mapping[str, Tensor]:
        """Return what is added to frozen weights, in training and in answers: see ``Adapters.shift``."""
        return {}

    def begin(self, learner: Learner, context: RoundContext) -> None:  # noqa: B027  (most have nothing to do)
        """Prepare the round; the adapters are as received, and as this client left them."""

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """End the round; return the extra arrays that travel with the adapter (:meth:`ServerPart.expects`)."""
        return {}

    def prepare(self, learner: Learner, context: RoundContext) -> None:  # noqa: B027
        """Get ready to answer: everything is as it answers, and :meth:`Learner.held_out` may be looked at.

        What is put into ``context.state`` here holds until the client's next turn, and is not stored.
        """

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the current batch's scores (N, C) under one of :attr:`routes`, see :meth:`Learner.answers`."""
        return learner.answers(route, self.heads(context.config).get(route, MAIN_HEAD))

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the weight of each adapter under one of :attr:`routes`; ``None``: no one sum holds for all."""
        return ROUTES.get(route)

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the routes that have a head of their own, with its name; all others share the main head."""
        return {}

    def shares(self, key: str) -> bool:
        """Return whether an entry of the global adapter travels."""
        return True

    def trains_key(self, key: str) -> bool:
        """Return whether an entry of the adapters in :attr:`trains` trains."""
        return True


def separate_heads(config: AlgorithmConfig) -> Mapping[str, str]:
    """Return :meth:`Algorithm.heads` of methods with a global and a personal route: ``algorithm.heads``."""
    return {"global": "global"} if config.heads == "separate" else {}


def task_step(learner: Learner, route: str) -> dict[str, Tensor]:
    """Take one step on the task loss alone, on one route: what every method without distillation does."""
    loss = learner.task_loss(learner.logits(learner.features(route)))
    learner.update(loss)
    return {"loss": loss.detach()}


def need_equal_weights(config: RunConfig) -> None:
    """Refuse ``server.weighting`` for methods that make means of their own.

    Raises:
        ConfigError: it is not ``equal``.
    """
    if config.server.weighting != "equal":
        raise ConfigError(f"server.weighting: {config.method} makes means of its own, which must be equal")
