"""One schedule of local training, ready to take steps that are timed phase by phase.

| schedule | what a step is |
| --- | --- |
| ``published`` | FedDAT as published: three forward and two backward passes of the stock model, each from the files |
| ``alternating`` | our FedDAT in the published order: the same numbers |
| ``joint`` | our FedDAT with one update for both adapters |
| ``int8`` | ``joint`` with products of 8-bit numbers in frozen layers |
| ``plain`` | one adapter on its task's loss alone, as in FedAvg |

On a GPU ours are recorded as CUDA graphs, as in a run; and the published one multiplies in TF32, as the torch that the
published code pins (1.10) does by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from feddat.adapters.base import Adapters, Route
from feddat.adapters.frozen import prepare_frozen
from feddat.adapters.int8_products import cannot_multiply, product_operator
from feddat.adapters.methods import build_adapters
from feddat.algorithms import ALGORITHMS, RoundContext
from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner
from feddat.bench.clock import Clock
from feddat.bench.published import make_stock, published_step, stock_optimizer
from feddat.client.captured import CapturedRoutes
from feddat.client.learner import BatchLearner
from feddat.client.member import Member
from feddat.client.optim import build_optimizer
from feddat.config import RunConfig
from feddat.example import ClientData, Example
from feddat.models.base import Backbone, StagedBackbone
from feddat.models.catalog import load_backbone
from feddat.precision import resolve_precision

#: Schedule -> the algorithm whose parts it trains, and its settings.
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("feddat", {"algorithm.order": "alternating", "train.precision": "fp32"}),
    "alternating": ("feddat", {"algorithm.order": "alternating"}),
    "joint": ("feddat", {"algorithm.order": "joint"}),
    "int8": ("feddat", {"algorithm.order": "joint", "train.precision": "int8"}),
    "plain": ("fedavg", {}),
}
#: What a step's time is divided into; the rest of it is Python between them.
PHASES = ("inputs", "forward", "backward", "update")


def default_schedules(device: str) -> list[str]:
    """Return the schedules that are measured where none are named."""
    return [name for name in SCHEDULES if name != "int8" or cannot_multiply(device) is None]


def side_config(schedule: str, config: RunConfig) -> RunConfig:
    """Return a run's configuration with a schedule's own settings on top."""
    method, settings = SCHEDULES[schedule]
    return config.updated({"method": method, **settings})


@dataclass(frozen=True)
class SideModel:
    """A model that several sides train adapters on in turns.

    Attributes:
        backbone: on its device, divided.
        adapters: over it.
        recorded: its passes on a GPU.
    """

    backbone: Backbone
    adapters: Adapters
    recorded: CapturedRoutes | None


def load_side_model(schedule: str, config: RunConfig) -> SideModel:
    """Return the model that a schedule trains adapters on.

    ``published`` needs one of its own; the others of one precision can share one.

    Args:
        schedule: key of :data:`SCHEDULES`.
        config: as :func:`side_config` gives it.
    """
    backbone = load_backbone(config.model)
    if schedule == "published":
        make_stock(backbone)
    backbone.model.to(config.device)
    adapters = build_adapters(backbone.model, **config.adapter.form())
    prepare_frozen(adapters, resolve_precision(config.train.precision, config.device))
    if isinstance(backbone, StagedBackbone) and schedule != "published":
        backbone.stage(adapters.changed)
    recorded = None
    ours_on_gpu = config.device.startswith("cuda") and config.runtime.cuda_graphs and schedule != "published"
    if ours_on_gpu and isinstance(backbone, StagedBackbone):
        recorded = CapturedRoutes(backbone, adapters, config.train.precision)
    return SideModel(backbone, adapters, recorded)


class Side:
    """One schedule with its own head and optimizer.

    Args:
        schedule: key of :data:`SCHEDULES`.
        config: the run that it is a step of, as :func:`side_config` gives it.
        client: whose examples it trains on.
        model: as :func:`load_side_model` gives it.

    Attributes:
        precision: of its products.
        member: the client's data, task and head.
        adapters: what trains.
        clock: seconds by phase, all steps together.
    """

    def __init__(self, schedule: str, config: RunConfig, client: ClientData, model: SideModel) -> None:
        backbone, self.adapters = model.backbone, model.adapters
        self._config = config
        self._algorithm: Algorithm = ALGORITHMS[config.method]
        device = torch.device(config.device)
        self.clock = Clock(device)
        self.member = Member(client, self._config, backbone, device)
        parameters = [p for name in self._algorithm.trains for p in self.adapters.parameters(name)]
        heads = [p for head in self.member.heads.values() for p in head.parameters()]
        optimizer = build_optimizer(parameters, self._config.train, heads)
        self.precision = self._config.train.precision
        self._backbone = backbone
        self._on_gpu = device.type == "cuda"
        self._published = schedule == "published"
        if self._published:
            optimizer = stock_optimizer(optimizer)
        self._learner = TimedLearner(
            self.clock,
            backbone,
            self.adapters,
            self._config.train.precision,
            optimizer,
            self._config.train.clip_norm,
            captured=model.recorded,
        )
        backbone.model.train()

    def flops(self, indices: Tensor) -> int:
        """Return the floating-point operations of one step, which is taken as it is: not replayed."""
        recorded, self._learner.recorded = self._learner.recorded, None
        known = {product_operator(): _flops_of_product} if self._config.train.precision == "int8" else None
        with FlopCounterMode(display=False, custom_mapping=known) as counter:
            self.step(indices)
        self._learner.recorded = recorded
        return int(counter.get_total_flops())

    def step(self, indices: Tensor) -> dict[str, Tensor]:
        """Take one step on the examples at ``indices`` (N,) of the training split; return its losses."""
        if self._on_gpu:
            torch.set_float32_matmul_precision("high" if self._published else "highest")  # TF32 or not
        part = self.member.prepared("train")
        with self.clock.phase("inputs"):
            targets = part.targets[indices.to(part.targets.device, non_blocking=True)]
            inputs = self.member.training_inputs(part, indices)
        self._learner.take(self.member, inputs, targets)
        step: Callable[[Learner, RoundContext], dict[str, Tensor]] = self._algorithm.step
        if self._published:
            step = published_step
            self._learner.examples = [self.member.data.train[index] for index in indices.tolist()]
        return step(self._learner, RoundContext(1, 1, self._config.algorithm))


def _flops_of_product(rows: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    """Return the operations of a product of 8-bit numbers: (N, in) times a weight is (N, out)."""
    count, width = rows
    return 2 * count * width * out_shape[1]


class TimedLearner(BatchLearner):
    """A learner that times what it does.

    Attributes:
        examples: if given, every forward pass makes its inputs again from these examples' files.
    """

    def __init__(self, clock: Clock, backbone: Backbone, *args: Any, **kwargs: Any) -> None:
        super().__init__(backbone, *args, **kwargs)
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
