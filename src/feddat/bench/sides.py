"""One schedule of local training, ready to take steps that are timed phase by phase.

| schedule | what a step is |
| --- | --- |
| ``published`` | FedDAT as published: three forward and two backward passes of the stock model, each from the files |
| ``alternating`` | our FedDAT in the published order: the same numbers |
| ``joint`` | our FedDAT with one update for both adapters |
| ``plain`` | one adapter on its task's loss alone, as in FedAvg |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from feddat.adapters.base import Adapters, Route
from feddat.adapters.frozen import round_frozen
from feddat.adapters.methods import build_adapters
from feddat.algorithms import ALGORITHMS, RoundContext
from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner
from feddat.bench.clock import Clock
from feddat.bench.published import make_stock, published_step, stock_optimizer
from feddat.client.learner import BatchLearner
from feddat.client.member import Member
from feddat.client.optim import build_optimizer
from feddat.config import RunConfig
from feddat.example import ClientData, Example
from feddat.models.base import Backbone, StagedBackbone
from feddat.models.catalog import load_backbone

#: Schedule -> the algorithm whose parts it trains, and its settings.
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("feddat", {"algorithm.order": "alternating"}),
    "alternating": ("feddat", {"algorithm.order": "alternating"}),
    "joint": ("feddat", {"algorithm.order": "joint"}),
    "plain": ("fedavg", {}),
}
#: What a step's time is divided into; the rest of it is Python between them.
PHASES = ("inputs", "forward", "backward", "update")


def load_side_model(schedule: str, config: RunConfig) -> tuple[Backbone, Adapters]:
    """Return the model that a schedule trains adapters on; only ``published`` needs one of its own."""
    backbone = load_backbone(config.model)
    if schedule == "published":
        make_stock(backbone)
    backbone.model.to(config.device)
    adapters = build_adapters(backbone.model, **config.adapter.model_dump())
    if config.train.precision == "bf16" and schedule != "published":
        round_frozen(adapters)
    if isinstance(backbone, StagedBackbone) and schedule != "published":
        backbone.stage(adapters.changed)
    return backbone, adapters


class Side:
    """One schedule with its own head and optimizer.

    Args:
        schedule: key of :data:`SCHEDULES`.
        config: the run that it is a step of; the schedule's own settings come on top.
        client: whose examples it trains on.
        model: as :func:`load_side_model` gives it.

    Attributes:
        member: the client's data, task and head.
        adapters: what trains.
        clock: seconds by phase, all steps together.
    """

    def __init__(self, schedule: str, config: RunConfig, client: ClientData, model: tuple[Backbone, Adapters]) -> None:
        backbone, self.adapters = model
        method, settings = SCHEDULES[schedule]
        self._config = config.updated({"method": method, **settings})
        self._algorithm: Algorithm = ALGORITHMS[method]
        device = torch.device(config.device)
        self.clock = Clock(device)
        self.member = Member(client, self._config, backbone, device)
        parameters = [p for name in self._algorithm.trains for p in self.adapters.parameters(name)]
        heads = [p for head in self.member.heads.values() for p in head.parameters()]
        optimizer = build_optimizer(parameters, self._config.train, heads)
        self._published = schedule == "published"
        if self._published:
            optimizer = stock_optimizer(optimizer)
        self._learner = TimedLearner(
            self.clock, backbone, self.adapters, self._config.train.precision, optimizer, self._config.train.clip_norm
        )
        backbone.model.train()

    def step(self, indices: Tensor) -> dict[str, Tensor]:
        """Take one step on the examples at ``indices`` (N,) of the training split; return its losses."""
        part = self.member.prepared("train")
        with self.clock.phase("inputs"):
            targets = part.targets[indices.to(part.targets.device)]
            inputs = self.member.training_inputs(part, indices)
        self._learner.take(self.member, inputs, targets)
        step: Callable[[Learner, RoundContext], dict[str, Tensor]] = self._algorithm.step
        if self._published:
            step = published_step
            self._learner.examples = [self.member.data.train[index] for index in indices.tolist()]
        return step(self._learner, RoundContext(1, 1, self._config.algorithm))


class TimedLearner(BatchLearner):
    """A learner that times what it does.

    Attributes:
        examples: if given, every forward pass makes its inputs again from these examples' files.
    """

    def __init__(self, clock: Clock, backbone: Backbone, *args: Any) -> None:
        super().__init__(backbone, *args)
        self._clock = clock
        self._source = backbone
        self.examples: Sequence[Example] | None = None

    def features(self, route: Route) -> Tensor:
        """Return the batch's features on a route."""
        if self.examples is not None:
            with self._clock.phase("inputs"):
                views = [view for example in self.examples for view in self._member.task.views(example)]
                self._inputs |= self._source.encode(views).batch(range(len(views)), self._targets.device)
        with self._clock.phase("forward"):
            return super().features(route)

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return a head's logits."""
        with self._clock.phase("forward"):
            return super().logits(features, head)

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss."""
        with self._clock.phase("forward"):
            return super().task_loss(logits)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the distillation loss."""
        with self._clock.phase("forward"):
            return super().distillation_loss(student, teacher, temperature)

    def backward(self, loss: Tensor) -> None:
        """Run backward."""
        with self._clock.phase("backward"):
            super().backward(loss)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Take an optimizer step."""
        with self._clock.phase("update"):
            super().step(*args, **kwargs)
        self.take_norm()
