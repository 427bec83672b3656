"""Targets, cross-entropy and accuracy for tasks with exactly one right class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from feddat.example import DataError, Example


def label_targets(examples: Sequence[Example], classes: Sequence[str]) -> Tensor:
    """Return class indices, (N,) long.

    Raises:
        DataError: an example has no label, or one that is not an index into ``classes``; the message names it.
    """
    for example in examples:
        if example.label is None or not 0 <= example.label < len(classes):
            raise DataError(
                f"example {example.id}: label {example.label}: expected 0 to {len(classes) - 1} ({', '.join(classes)})"
            )
    return torch.tensor([example.label for example in examples], dtype=torch.long)


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits (N, C) against class indices (N,), mean over the batch."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def label_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 where the argmax is the right class and 0 elsewhere, (N,) float."""
    return (logits.argmax(dim=1) == targets).float()
