"""A client's model as an attacker has it: the frozen model, a shared adapter that travelled, and a head of its own.

The client's head never leaves it. So the attacker trains a *shadow head* for the client's answers, on examples of the
same kind that it has itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feddat.audit.errors import AuditError
from feddat.client.answering import row_losses
from feddat.client.learner import autocast
from feddat.client.member import FUSION, Member
from feddat.client.personal import load_shared
from feddat.example import Example
from feddat.experiment.single.foundation import Foundation
from feddat.models.base import StagedBackbone
from feddat.seeding import derive, torch_generator

#: Examples that are carried through the frozen layers together.
_BATCH = 64
#: Steps of the shadow head on all shadow examples at once: at first, and again whenever the adapter has moved.
_FIRST_STEPS, _STEPS, _LR = 150, 30, 2e-3


@dataclass(frozen=True, slots=True)
class Encoded:
    """Examples as far as no adapter changes them: batches of model inputs, and targets (n, ...)."""

    batches: Sequence[Mapping[str, Tensor]]
    targets: Tensor


class Probe:
    """One member's examples under adapters of the attacker's choice; answers on the global route.

    Args:
        foundation: frozen model and adapters.
        member: whose examples, answers and task these are; its own head is not used.
        seed: of the shadow head.

    Raises:
        AuditError: the member writes its answers, or has a personal part below its head.
    """

    def __init__(self, foundation: Foundation, member: Member, seed: int) -> None:
        if member.generation is not None:
            raise AuditError(
                f"client {member.name}: model {foundation.config.model} writes its answers; membership is audited "
                "where answers are classes (eval.answers: classes)"
            )
        if FUSION in member.heads:
            raise AuditError(
                f"client {member.name}: a personal fusion is part of its model; expected fusion.side: shared"
            )
        self._foundation, self._member = foundation, member
        self._adapters, self._backbone = foundation.adapters, foundation.backbone
        self._device = next(foundation.backbone.model.parameters()).device
        torch.manual_seed(derive(seed, "audit", member.name, "shadow head"))
        self.head: nn.Module = member.task.build_head(foundation.backbone.feature_dim).to(self._device)
        self._fresh = True

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Return examples, carried as far as all adapters go together."""
        views = self._member.encode_unseen(examples)
        batches = []
        self._backbone.model.eval()
        with torch.no_grad(), self._autocast():
            for rows in torch.arange(len(examples)).split(_BATCH):  # type: ignore[no-untyped-call]
                inputs = self._member.inputs(views, rows)
                if isinstance(self._backbone, StagedBackbone):
                    inputs = self._backbone.prefix(inputs)
                batches.append(inputs)
        return Encoded(batches, self._member.task.targets(examples).to(self._device))

    def load(self, shared: Mapping[str, Tensor]) -> None:
        """Put a shared part into the model; what does not travel is as it is drawn."""
        self._adapters.shift({})
        self._adapters.initialise(torch_generator(self._foundation.config.seed, "server", "adapter"), "global")
        load_shared(self._foundation.algorithm, self._adapters, shared)
        self._adapters.route("global")
        self._backbone.model.eval()

    def train_head(self, shadow: Encoded) -> None:
        """Train the shadow head, from where it stands, on the features that the adapter makes now."""
        features, head = self.features(shadow), self.head
        optimizer = torch.optim.AdamW(head.parameters(), lr=_LR, weight_decay=0.01)
        head.train()
        for _ in range(_FIRST_STEPS if self._fresh else _STEPS):
            optimizer.zero_grad()
            loss = self._member.task.loss(self._member.task.logits(head, features), shadow.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        self._fresh = False

    def features(self, examples: Encoded) -> Tensor:
        """Return pooled features, (n * V, d), float32."""
        with torch.no_grad(), self._autocast():
            return torch.cat([self._backbone.features(dict(batch)) for batch in examples.batches]).float()

    def losses(self, examples: Encoded) -> Tensor:
        """Return each example's loss under the adapter and the shadow head, (n,), float64."""
        with torch.no_grad():
            logits = self._member.task.logits(self.head, self.features(examples))
            return row_losses(self._member.task, logits, examples.targets).double().cpu()

    def gradients(self, examples: Encoded) -> Tensor:
        """Return each example's gradient of its loss by the shared part, (n, D), in the order of the names, on the CPU.

        An example at a time: any kind of adapter can be looked at, and a batch takes no less on a CPU.
        """
        named = self._adapters.named("global")
        parameters = [named[key] for key in sorted(named) if self._foundation.algorithm.shares(key)]
        views, rows, row = self._member.task.views_per_example, [], 0
        for batch in examples.batches:
            count = len(next(iter(batch.values()))) // views
            for place in range(count):
                one = {key: value[place * views : (place + 1) * views] for key, value in batch.items()}
                with self._autocast():
                    features = self._backbone.features(one)
                logits = self._member.task.logits(self.head, features.float())
                loss = self._member.task.loss(logits, examples.targets[row : row + 1])
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
                pairs = zip(found, parameters, strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).cpu())
                row += 1
        return torch.stack(rows).float()

    def _autocast(self) -> torch.autocast:
        return autocast(self._device, self._foundation.config.train.precision)
