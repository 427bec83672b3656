"""One schedule of local training whose steps are timed phase by phase.

| schedule | one step |
| --- | --- |
| ``published`` | FedDAT as published: three forward and two backward passes of the stock model, each from the files |
| ``alternating`` | our FedDAT in the published order: the same numbers |
| ``joint`` | our FedDAT with one update for both adapters |
| ``int8`` | ``joint`` with 8-bit matrix products in frozen layers |
| ``plain`` | one adapter trained only on the task loss, as in FedAvg |

On a GPU, our schedules are recorded as CUDA graphs, as in a run. The published schedule multiplies in TF32 there,
which is the default of the torch version that the published code pins (1.10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from feddat.adapters.base import Adapters, Route
from feddat.adapters.build import build_adapters
from feddat.adapters.frozen import prepare_frozen
from feddat.adapters.int8_products import cannot_multiply, product_operator
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

#: Schedule -> its algorithm and its settings.
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("feddat", {"algorithm.order": "alternating", "train.precision": "fp32"}),
    "alternating": ("feddat", {"algorithm.order": "alternating"}),
    "joint": ("feddat", {"algorithm.order": "joint"}),
    "int8": ("feddat", {"algorithm.order": "joint", "train.precision": "int8"}),
    "plain": ("fedavg", {}),
}
#: Timed phases of a step; the remaining time is Python code between them.
PHASES = ("inputs", "forward", "backward", "update")


def default_schedules(device: str) -> list[str]:
    """Return the schedules that are measured by default on a device."""
    return [name for name in SCHEDULES if name != "int8" or cannot_multiply(device) is None]


def side_config(schedule: str, config: RunConfig) -> RunConfig:
    """Return a run's configuration with a schedule's settings applied."""
    method, settings = SCHEDULES[schedule]
    return config.updated({"method": method, **settings})


@dataclass(frozen=True)
class SideModel:
    """A model on which several sides train adapters in turns.

    Attributes:
        backbone: the backbone, on its device and split into stages.
        adapters: adapters over the backbone.
        recorded: recorded GPU passes; ``None`` without CUDA graphs.
    """

    backbone: Backbone
    adapters: Adapters
    recorded: CapturedRoutes | None


def load_side_model(schedule: str, config: RunConfig) -> SideModel:
    """Return the model that a schedule trains adapters on.

    ``published`` needs its own model. The other schedules can share one model per precision.

    Args:
        schedule: key of :data:`SCHEDULES`.
        config: configuration from :func:`side_config`.
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
        config: configuration of the run, from :func:`side_config`.
        client: client on whose examples it trains.
        model: model from :func:`load_side_model`.

    Attributes:
        precision: precision of matrix products.
        member: the client's data, task and head.
        adapters: the adapters that it trains.
        clock: seconds by phase, summed over all steps.
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
        """Return the floating-point operations of one step, which runs without replaying CUDA graphs."""
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
            targets = part.targets_at(indices)
            inputs = self.member.training_inputs(part, indices)
        self._learner.take(self.member, inputs, targets)
        step: Callable[[Learner, RoundContext], dict[str, Tensor]] = self._algorithm.step
        if self._published:
            step = published_step
            self._learner.examples = [self.member.data.train[index] for index in indices.tolist()]
        return step(self._learner, RoundContext(1, 1, self._config.algorithm))


def _flops_of_product(rows: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any) -> int:
    """Return the operations of an 8-bit matrix product of rows (N, in) and a weight to (N, out)."""
    count, width = rows
    return 2 * count * width * out_shape[1]


class TimedLearner(BatchLearner):
    """A learner that times its phases.

    Attributes:
        examples: if set, every forward pass reads its inputs again from these examples' files.
    """

    def __init__(self, clock: Clock, backbone: Backbone, *args: Any, **kwargs: Any) -> None:
        super().__init__(backbone, *args, **kwargs)
        self._clock = clock
        self._source = backbone
        self.examples: Sequence[Example] | None = None

    def features(self, route: Route) -> Tensor:
        """Return the features of the batch on a route."""
        if self.examples is not None:
            with self._clock.phase("inputs"):
                views = [view for example in self.examples for view in self._member.task.views(example)]
                self._inputs |= self._source.encode(views).batch(range(len(views)), self._targets.device)
        with self._clock.phase("forward"):
            return super().features(route)

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return the logits of a head."""
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
        """Run the backward pass."""
        with self._clock.phase("backward"):
            super().backward(loss)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Take an optimizer step."""
        with self._clock.phase("update"):
            super().step(*args, **kwargs)
        self.take_norm()
