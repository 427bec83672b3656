"""The learner that an algorithm drives: one batch of one member, on one frozen model with adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.client.member import Member
from feddat.models.base import Backbone


class BatchLearner:
    """Forward passes, loss and update on the current batch (:class:`feddat.algorithms.base.Learner`).

    Without an optimizer it only answers: :meth:`features` and :meth:`logits`.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters,
        precision: str,
        optimizer: torch.optim.Optimizer | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self._backbone = backbone
        self._adapters = adapters
        self._bf16 = precision == "bf16"
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._parameters: Sequence[nn.Parameter] = (
            [p for group in optimizer.param_groups for p in group["params"]] if optimizer is not None else ()
        )
        self._norms: list[Tensor] = []
        self._member: Member
        self._inputs: dict[str, Tensor]
        self._targets: Tensor

    def take(self, member: Member, inputs: dict[str, Tensor], targets: Tensor) -> None:
        """Make this batch the current one."""
        self._member, self._inputs, self._targets = member, inputs, targets

    def features(self, route: str) -> Tensor:
        """Return the batch's pooled features on ``route``, shape (N * V, d)."""
        self._adapters.route(route)
        with self._autocast():
            return self._backbone.features(self._inputs)

    def logits(self, features: Tensor) -> Tensor:
        """Return the member's logits (N, C), float32 or wider."""
        with self._autocast():
            logits = self._member.task.logits(self._member.head, features)
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task loss, a scalar."""
        return self._member.task.loss(logits, self._targets)

    def update(self, loss: Tensor) -> None:
        """Drop all gradients, backward, clip where configured, one optimizer step."""
        if self._optimizer is None:
            raise RuntimeError("this learner has no optimizer: it answers only")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        moving = [parameter for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
        if self._clip_norm is not None:
            nn.utils.clip_grads_with_norm_(moving, self._clip_norm, norm)
        self._norms.append(norm.detach())
        self._optimizer.step()

    def take_norm(self) -> Tensor:
        """Return the largest gradient norm (before clipping) since the last call; not finite if any was not."""
        norm = torch.stack(self._norms).amax()
        self._norms.clear()
        return norm

    def _autocast(self) -> torch.autocast:
        kind = next(iter(self._inputs.values())).device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self._bf16)
