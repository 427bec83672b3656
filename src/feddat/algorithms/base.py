"""The base of every local objective: one file per algorithm, no I/O, no federation.

A client's round goes as follows. The received adapter and the client's own state are loaded into the model. Then
:meth:`Algorithm.begin` runs, :meth:`Algorithm.step` runs on every batch, and :meth:`Algorithm.finish` runs. The trained
state goes to the client's store, and the shared entries of the global adapter go to the server. Algorithms are
stateless: one object serves every client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from feddat.adapters.base import ROUTES, Route
from feddat.algorithms.server import ServerPart
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

#: Name of the head that every member has.
MAIN_HEAD = "main"
#: Parts of the names of LoRA's entries: the factor A is drawn at random, B starts at 0; ΔW = scale · B · A.
LORA_A, LORA_B = ".lora_A.", ".lora_B."


@dataclass(slots=True)
class RoundContext:
    """One client's round: its progress and the algorithm's state.

    Attributes:
        round: current round, 1-based.
        rounds: planned rounds.
        config: the algorithm's settings.
        previous: round in which this client last trained; ``None`` in its first.
        steps: number of local steps in this round.
        batches: number of batches of an epoch.
        step: current local step, 0-based.
        received: the extra arrays that came with the adapter: :meth:`ServerPart.sends` for training,
            :meth:`ServerPart.answers` for an evaluation.
        state: the client's own tensors, kept in its store from round to round.
        scratch: values that the algorithm needs until the end of the round.
    """

    round: int
    rounds: int
    config: AlgorithmConfig
    previous: int | None = None
    steps: int = 1
    batches: int = 1
    step: int = 0
    received: Mapping[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)


def received_count(context: RoundContext, key: str, most: int) -> int:
    """Return a number that the server sends as an array of shape (1,).

    A client must not take a size from a server unchecked: it could use up the client's memory.

    Raises:
        ValueError: it is not a whole number from 0 to ``most``.
    """
    value = context.received[key].item()
    if not 0 <= value <= most or value != int(value):
        raise ValueError(f"extra array {key}: got {value:g}, expected a whole number from 0 to {most}")
    return int(value)


class Learner(Protocol):
    """The operations that an algorithm can run on a client: forward passes, losses, updates, and copies of adapters."""

    def features(self, route: Route) -> Tensor:
        """Return the current batch's features on a route: pooled (N * V, d), or (M, L, d) for M written answers.

        The features of several routes can await their backward pass at the same time.
        """
        ...

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return a personal head's logits, (N, C) or (M, L, V) for tokens, float32 or wider."""
        ...

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss of the current batch's logits, a scalar."""
        ...

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return KL_T(student ‖ teacher) of two logits of the current batch, a scalar; the teacher is detached."""
        ...

    def answers(self, route: Route, head: str = MAIN_HEAD) -> Tensor:
        """Return the current batch's scores (N, C) of the task's classes on a route; a higher score is likelier."""
        ...

    def held_out(self) -> Iterator[None]:
        """Make each batch of the client's validation examples the current one in turn; yields nothing without examples.

        Inside the loop, the model is in evaluation mode and gradients are off. In training, only
        :meth:`Algorithm.begin` and :meth:`Algorithm.finish` can call this; a step would lose its batch.
        """
        ...

    def scores(self, answers: Tensor) -> Tensor:
        """Return the score in [0, 1] of each example of the current batch, (N,), given its :meth:`answers`."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Drop all gradients and run backward on ``loss``; the gradients can then be read and changed in place."""
        ...

    def step(self, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Take one optimizer step with the current gradients, clipped if configured.

        A parameter without gradient does not move, neither by momentum nor by weight decay.

        Args:
            adapters: the adapters that move; default: all with gradients.
            head: whether heads with gradients move.
        """
        ...

    def update(self, loss: Tensor, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Run :meth:`backward` and :meth:`step`; a parameter that ``loss`` does not depend on does not move."""
        ...

    def adapter(self, name: str) -> Mapping[str, Tensor]:
        """Return an adapter's trained parameters by name, to read them or change them in place without autograd."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copy all of one adapter into another."""
        ...

    def also_train(self, tensors: Iterable[Tensor]) -> None:
        """Add leaf tensors that require gradients to this round's optimizer, without weight decay."""
        ...


class Algorithm:
    """A local objective, with a table of what it trains, keeps, sends and answers with.

    A method must set :attr:`name`, :attr:`trains` and :attr:`routes`. All else has a default.

    Attributes:
        name: key in :data:`feddat.algorithms.ALGORITHMS`.
        reads: the settings in section ``algorithm`` that it reads; a user is told about others that have no effect.
        trains: adapters that get gradients, a subset of ``("global", "local")``; the heads always train.
        keeps: adapters in the client's store, a subset of ``("local", "anchor")``: trained adapters, and adapters that
            rest there between rounds. Entries of the global adapter that train and do not travel are kept too.
        communicates: whether the global adapter travels.
        centralised: whether one participant holds the data of all clients.
        routes: names of the evaluated routes, in the order of reports; the first is the method's own.
        server: the algorithm's work on the server, beside or instead of the plain mean; ``None``: any server rule
            works.
        kinds: kinds of adapter that the algorithm supports (:data:`feddat.kinds.KINDS`), the default first; empty:
            every kind whose adapters support :attr:`routes`.
        needs: description of those kinds, for messages.
        reads_features: whether it compares or weighs examples by their pooled features, (N, d).
        trains_head_alone: whether it has steps in which only heads train.
        logs: the keys that :meth:`step` returns; the server accepts no others.
        logs_below_zero: whether a logged value can be below 0; otherwise the server refuses such a value.
        sends: the adapter whose numbers travel. A method can copy the local one into the global one after training.
        trains_extras: whether the extra arrays that a client sends are parameters that it trains.
        hides_gradients: whether guarded steps (``privacy.guarded_steps``) cover all that a client sends. They do not if
            it sends gradients or arrays beside the adapter, or if its loss has a term whose gradient the server knows:
            beside it, the sign of their sum shows the size of the data's gradient.
        local_from_global: whether a client's local adapter starts as a copy of the received global one.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ()
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
    sends: ClassVar[str] = "global"
    trains_extras: ClassVar[bool] = False
    hides_gradients: ClassVar[bool] = False
    local_from_global: ClassVar[bool] = False

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm for one run, given the names of an adapter's entries.

        Most algorithms are the same for every run and return themselves.

        Raises:
            ConfigError: the settings are not compatible.
        """
        return self

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return how often a step takes each example forward and backward through the backbone, for estimates of cost.

        A run's tables have the counted passes.
        """
        return 1.0, 1.0

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one optimisation step (or its parts) on the current batch; default: on the task loss of the first route.

        Returns:
            Detached scalars to log, with exactly the keys of :attr:`logs`, which include ``loss``.
        """
        return task_step(learner, self.routes[0])

    def shift(self, context: RoundContext) -> Mapping[str, Tensor]:
        """Return the additions to frozen weights, for training and answers (see ``Adapters.shift``)."""
        return {}

    def begin(self, learner: Learner, context: RoundContext) -> None:
        """Prepare the round; the received adapter and this client's own adapters are already loaded."""

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """End the round; return the extra arrays that travel with the adapter (:meth:`ServerPart.expects`)."""
        return {}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        """Prepare to answer; all state is loaded, and :meth:`Learner.held_out` is available.

        Changes to ``context.state`` last until the client's next turn and are not stored.
        """

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the current batch's scores (N, C) on one of :attr:`routes`; see :meth:`Learner.answers`."""
        return learner.answers(route, self.heads(context.config).get(route, MAIN_HEAD))

    def mixed_routes(self, route: str, context: RoundContext) -> Mapping[str, float]:
        """Return the routes whose probabilities add up to those of a route, with their weights."""
        return {route: 1.0}

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the weight of each adapter on one of :attr:`routes`, or ``None`` if no fixed weights exist."""
        return ROUTES.get(route)

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return route -> head for routes with their own head; all others share the main head."""
        return {}

    def shares(self, key: str) -> bool:
        """Return whether an entry of the global adapter travels."""
        return True

    def trains_key(self, key: str) -> bool:
        """Return whether an entry trains, for the adapters in :attr:`trains`."""
        return True


def separate_heads(config: AlgorithmConfig) -> Mapping[str, str]:
    """Return :meth:`Algorithm.heads`, as ``algorithm.heads`` sets it, for methods with global and personal routes."""
    return {"global": "global"} if config.heads == "separate" else {}


def task_step(learner: Learner, route: str) -> dict[str, Tensor]:
    """Take one step on one route with only the task loss; methods without distillation share this step."""
    loss = learner.task_loss(learner.logits(learner.features(route)))
    learner.update(loss)
    return {"loss": loss.detach()}


def need_equal_weights(config: RunConfig) -> None:
    """Check ``server.weighting`` for methods that compute their own means.

    Raises:
        ConfigError: it is not ``equal``.
    """
    if config.server.weighting != "equal":
        raise ConfigError(
            f"server.weighting: {config.method} computes its own means with equal weights; expected equal"
        )
