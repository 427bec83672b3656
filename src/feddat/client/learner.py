"""The learner that an algorithm drives: one batch of one member, on one frozen model with adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from feddat.adapters.base import TRAINED, Adapters, Route
from feddat.algorithms.base import MAIN_HEAD
from feddat.algorithms.distillation import distillation_loss
from feddat.client.captured import CapturedRoutes
from feddat.client.member import Member
from feddat.client.momentum import MomentumCopy
from feddat.models.base import Backbone, StagedBackbone
from feddat.models.generative import ReadingBackbone
from feddat.phases import phase
from feddat.precision import autocasts

#: Yields the batches of a client's validation examples: their member, inputs and targets.
HeldOut: TypeAlias = Callable[[], Iterable[tuple[Member, dict[str, Tensor], Tensor]]]


class BatchLearner:
    """Forward passes, loss and update on the current batch (:class:`feddat.algorithms.base.Learner`).

    Without an optimizer, it cannot train; only :meth:`features`, :meth:`logits` and :meth:`answers` are of use.

    Attributes:
        recorded: recordings of passes on a GPU, replayed where possible; ``None``: there are none.
        passes: number of views (one picture with its text) that went ``forward`` and ``backward`` through the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters,
        precision: str,
        optimizer: torch.optim.Optimizer | None = None,
        clip_norm: float | None = None,
        trains_key: Callable[[str], bool] = lambda key: True,
        zeroes_gradients: bool = False,
        momentum: MomentumCopy | None = None,
        captured: CapturedRoutes | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self._backbone = backbone
        self._adapters = adapters
        self._precision = precision
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._trains_key = trains_key
        self._zeroes_gradients = zeroes_gradients
        self._momentum = momentum
        # Recordings own their gradient tensors: gradients that are zeroed and kept, as in the published code, would be
        # added to themselves.
        self.recorded = None if zeroes_gradients else captured
        self._alpha = 0.0
        # Pairs of features or logits of the current batch and those of the momentum copy, their teacher.
        self._taught_features: list[tuple[Tensor, Tensor]] = []
        self._taught_logits: list[tuple[Tensor, Tensor]] = []
        self._parameters: list[Tensor] = (
            [p for group in optimizer.param_groups for p in group["params"]] if optimizer is not None else []
        )
        self._norms: list[Tensor] = []
        self._member: Member
        self._inputs: dict[str, Tensor]
        self._targets: Tensor
        self._begun = False
        # Answers to the current batch that an evaluation has already computed, with the free ones among them: a
        # mixture shares them with its routes.
        self._answered: dict[tuple[object, ...], tuple[Tensor, list[tuple[str, float]]]] = {}
        self._held_out = held_out
        self.passes = {"forward": 0, "backward": 0}

    def take(self, member: Member, inputs: dict[str, Tensor], targets: Tensor, alpha: float = 0.0) -> None:
        """Make this batch the current one; ``alpha`` is the weight of the momentum copy, if any, in its loss."""
        self._member, self._inputs, self._targets, self._alpha = member, inputs, targets, alpha
        self._begun = False
        self._answered.clear()
        self._taught_features.clear()
        self._taught_logits.clear()
        if self._momentum is not None:
            self._momentum.follow()
        if self.recorded is not None:
            self.recorded.begin()

    def features(self, route: Route) -> Tensor:
        """Return the batch's features on ``route``: pooled (N * V, d), or (M, L, d) for M written answers."""
        self._adapters.route(route)
        self._share_prefix()
        recorded = self._replayed(route)
        with self._autocast():
            if recorded is not None:
                return self._counted(self._member.pooled(recorded))
            features = self._counted(self._forward())
            if (copy := self._teacher()) is not None:
                with copy.instead():
                    self._taught_features.append((features, self._counted(self._forward())))
        return features

    def logits(self, features: Tensor, head: str = MAIN_HEAD) -> Tensor:
        """Return the logits of one of the member's heads, (N, C) or (M, L, V) for tokens, float32 or wider."""
        with self._autocast():
            logits = _wide(self._member.task.logits(self._member.heads[head], features))
            if torch.is_grad_enabled() and (copy := self._teacher()) is not None:
                with copy.instead():
                    taught = self._member.task.logits(
                        self._member.heads[head], _beside(features, self._taught_features)
                    )
                self._taught_logits.append((logits, taught))
        return logits

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss, a scalar; it includes the predictions of the momentum copy, if there is one."""
        if (generation := self._member.generation) is None:
            return self._member.task.loss(logits, self._targets)
        taught = None if self._teacher() is None else _beside(logits, self._taught_logits)
        return generation.loss(logits, self._inputs, len(self._targets), taught, self._alpha)

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return KL_T(student ‖ teacher), a scalar; the padding of written answers does not count."""
        generation = self._member.generation
        mask = None if generation is None else generation.mask(self._inputs)
        return distillation_loss(student, teacher, temperature, mask)

    def answers(self, route: Route, head: str = MAIN_HEAD) -> Tensor:
        """Return the scores of the task's classes, (N, C): logits, or log-likelihoods of written answers."""
        if not torch.is_inference_mode_enabled():  # in training, adapters move between two passes of a batch
            return self._answers(route, head)
        key = (head, route) if isinstance(route, str) else (head, *route.items())
        generation = self._member.generation
        if key not in self._answered:
            answers = self._answers(route, head)
            self._answered[key] = answers, generation.written if generation is not None else []
        answers, written = self._answered[key]
        if generation is not None:
            generation.written = written
        return answers

    def _answers(self, route: Route, head: str) -> Tensor:
        if (generation := self._member.generation) is None:
            return self.logits(self.features(route), head)
        self._adapters.route(route)
        self._share_prefix()
        self.passes["forward"] += self._views()
        with self._autocast():
            return generation.answer(self._member.heads[head], self._inputs)

    def held_out(self) -> Iterator[None]:
        """Make each batch of the client's validation examples the current one in turn, in evaluation mode."""
        if self._held_out is None:
            return
        model = self._backbone.model
        trained: dict[nn.Module, bool] = {model: model.training}
        try:
            model.eval()
            with torch.no_grad():
                for member, inputs, targets in self._held_out():
                    for head in member.heads.values():
                        trained.setdefault(head, head.training)
                        head.eval()
                    self.take(member, inputs, targets)
                    yield
        finally:
            for module, trains in trained.items():
                module.train(trains)

    def scores(self, answers: Tensor) -> Tensor:
        """Return the score in [0, 1] of each example of the current batch, (N,), given its :meth:`answers`."""
        return self._member.task.scores(answers, self._targets)

    def _share_prefix(self) -> None:
        """Compute the part of the batch's forward pass that all routes share; only its first route needs to."""
        if self._begun or not isinstance(self._backbone, StagedBackbone):
            return
        self._begun = True
        with torch.no_grad(), self._autocast():
            self._inputs = self._backbone.prefix(self._inputs)

    def update(self, loss: Tensor, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Drop all gradients, run backward, clip if configured, and take one optimizer step."""
        self.backward(loss)
        self.step(adapters, head)

    @phase("backward")
    def backward(self, loss: Tensor) -> None:
        """Drop all gradients (or zero them, a trap of the published code) and run backward."""
        self._training().zero_grad(set_to_none=not self._zeroes_gradients)
        loss.backward()  # type: ignore[no-untyped-call]

    @phase("update")
    def step(self, adapters: Collection[str] | None = None, head: bool = True) -> None:
        """Clip if configured and take one optimizer step.

        Args:
            adapters: the adapters that move; ``None``: all trained ones.
            head: whether the heads move.
        """
        optimizer = self._training()
        if adapters is not None:
            for name in set(TRAINED).difference(adapters):
                _drop_gradients(self._adapters.parameters(name))
        if not head:
            for module in self._member.heads.values():
                _drop_gradients(module.parameters())
        moving = [parameter for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
        if self._clip_norm is not None:
            nn.utils.clip_grads_with_norm_(moving, self._clip_norm, norm)
        self._norms.append(norm.detach())
        optimizer.step()

    def adapter(self, name: str) -> Mapping[str, Tensor]:
        """Return an adapter's trained parameters by name."""
        return {key: value for key, value in self._adapters.named(name).items() if self._trains_key(key)}

    def copy(self, source: str, target: str) -> None:
        """Copy all of one adapter into another."""
        self._adapters.copy(source, target)

    def also_train(self, tensors: Iterable[Tensor]) -> None:
        """Add leaf tensors to the optimizer, without weight decay."""
        added = list(tensors)
        self._training().add_param_group({"params": added, "weight_decay": 0.0})
        self._parameters += added

    def take_norm(self) -> Tensor:
        """Return the largest gradient norm (before clipping) since the last call; not finite if any norm was not.

        Without an optimizer step, as on a batch that a method leaves out, it is 0.
        """
        norm = torch.stack(self._norms or [torch.zeros((), device=self._targets.device)]).amax()
        self._norms.clear()
        return norm

    def _views(self) -> int:
        return len(self._targets) * self._member.task.views_per_example

    def _counted(self, features: Tensor) -> Tensor:
        """Count a forward pass; count a backward pass when a gradient reaches the features."""
        views = self._views()
        self.passes["forward"] += views
        if features.requires_grad:

            def count(gradient: Tensor) -> None:
                self.passes["backward"] += views

            features.register_hook(count)  # type: ignore[no-untyped-call]
        return features

    def _forward(self) -> Tensor:
        if self._member.generation is None and isinstance(self._backbone, ReadingBackbone):
            return self._backbone.question_features(self._inputs)
        return self._member.pooled(self._backbone.features(self._inputs))

    def _replayed(self, route: Route) -> Tensor | None:
        """Return the features from a recording of the route, or ``None`` if none fits this batch."""
        if self.recorded is None or self._member.generation is not None:
            return None
        return self.recorded.features(route, self._inputs)

    def _teacher(self) -> MomentumCopy | None:
        """Return the momentum copy if the answers of the current batch are written, else ``None``."""
        return None if self._member.generation is None else self._momentum

    def _training(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise RuntimeError("this learner has no optimizer, so it cannot train")
        return self._optimizer

    def _autocast(self) -> torch.autocast:
        return autocast(next(iter(self._inputs.values())).device, self._precision)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context for forward passes in ``precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocasts(precision, device.type))


def _beside(tensor: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the partner of a tensor among pairs; the tensor is found by identity, not by value."""
    for own, taught in pairs:
        if own is tensor:
            return taught
    raise RuntimeError("momentum distillation: the forward passes of this batch did not return this tensor")


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _drop_gradients(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None
