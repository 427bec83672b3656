"""A client's model as an attacker has it: the frozen model, a shared adapter that travelled, and a head of its own.

The client's head never leaves it. The attacker uses that of a shadow client (:mod:`.shadow`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feddat.audit.errors import AuditError
from feddat.client.answering import row_losses
from feddat.client.learner import autocast
from feddat.client.member import FUSION, Member
from feddat.client.personal import load_shared
from feddat.client.private_rules import FAMILIES, KINDS
from feddat.client.private_training import weights_apart
from feddat.example import Example
from feddat.experiment.single.foundation import Foundation
from feddat.models.base import StagedBackbone
from feddat.privacy.example_gradients import ExampleGradients
from feddat.seeding import torch_generator

#: Examples in one pass through the model.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """Examples after the layers that no adapter changes: batches of model inputs, and targets (n, ...)."""

    batches: Sequence[Mapping[str, Tensor]]
    targets: Tensor


class Probe:
    """One member's examples under adapters of the attacker's choice, on the global route.

    Args:
        foundation: frozen model and adapters.
        member: the client under attack, for its answers and task; its own head is not used.

    Raises:
        AuditError: the member writes its answers, or has a personal fusion below its head.
    """

    def __init__(self, foundation: Foundation, member: Member) -> None:
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

    def encode(self, examples: Sequence[Example]) -> Encoded:
        """Return examples, with the passes through the first frozen layers done."""
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
        """Load a shared part into the model. Entries that do not travel have their initial values."""
        self._adapters.shift({})
        self._adapters.initialise(torch_generator(self._foundation.config.seed, "server", "adapter"), "global")
        load_shared(self._foundation.algorithm, self._adapters, shared)
        self._adapters.route("global")
        self._backbone.model.eval()

    def features(self, examples: Encoded) -> Tensor:
        """Return pooled features, (n * V, d), float32."""
        with torch.no_grad(), self._autocast():
            return torch.cat([self._backbone.features(dict(batch)) for batch in examples.batches]).float()

    def losses(self, examples: Encoded, head: nn.Module) -> Tensor:
        """Return each example's loss under the adapter and a head, (n,), float64."""
        with torch.no_grad():
            logits = self._member.task.logits(head, self.features(examples))
            return row_losses(self._member.task, logits, examples.targets).double().cpu()

    def gradients(self, examples: Encoded, head: nn.Module) -> Tensor:
        """Return each example's gradient of its loss by the shared part, (n, D), float32 on the CPU.

        Entries are in the order of the names. A whole batch is computed in one pass for kinds of adapter and model
        whose gradients by example are known, and an example at a time for others.
        """
        named = self._adapters.named("global")
        parameters = [named[key] for key in sorted(named) if self._foundation.algorithm.shares(key)]
        config = self._foundation.config
        known = config.adapter.peft in KINDS and self._backbone.family in FAMILIES
        together = known and config.train.precision != "int8" and not config.train.checkpointing
        views, rows, row = self._member.task.views_per_example, [], 0
        for batch in examples.batches:
            count = len(next(iter(batch.values()))) // views
            size = count if together else 1
            for place in range(0, count, size):
                part = {key: value[place * views : (place + size) * views] for key, value in batch.items()}
                targets = examples.targets[row : row + size]
                rows.append(self._by_example(part, targets, head, parameters, together).cpu())
                row += size
        return torch.cat(rows).float()

    def _by_example(
        self, batch: Mapping[str, Tensor], targets: Tensor, head: nn.Module, parameters: list[nn.Parameter], known: bool
    ) -> Tensor:
        """Return the gradients (n, D) of a batch's examples; of one example only, unless they are ``known``."""
        count = len(targets)
        record = ExampleGradients({str(place): parameter for place, parameter in enumerate(parameters)})
        with weights_apart(self._adapters, known):
            with record if known else nullcontext(), self._autocast():
                features = self._backbone.features(dict(batch))
            loss = self._member.task.loss(self._member.task.logits(head, features.float()), targets)
            if not known:
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
                pairs = zip(found, parameters, strict=True)
                return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])[None]
            (loss * count).backward()  # type: ignore[no-untyped-call]
        gradients = record.gradients(count)
        head.zero_grad(set_to_none=True)
        return torch.cat(
            [
                gradients[p].detach().flatten(1) if p in gradients else torch.zeros(count, p.numel(), device=p.device)
                for p in parameters
            ],
            dim=1,
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self._device, self._foundation.config.train.precision)
