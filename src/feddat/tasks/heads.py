"""Personal task heads, which map pooled features to logits. Weights are drawn from torch's global generator."""

from __future__ import annotations

from torch import nn


def classifier_head(feature_dim: int, classes: int, images: int = 1) -> nn.Module:
    """Return FedDAT's classifier (docs/method/feddat.md): (N, images * d) to (N, classes), with 2d hidden units."""
    hidden = 2 * feature_dim
    return nn.Sequential(
        nn.Linear(images * feature_dim, hidden),
        nn.LayerNorm(hidden),
        nn.GELU(),
        nn.Linear(hidden, classes),
    )


def choice_head(feature_dim: int) -> nn.Module:
    """Return a scorer for single candidates: (N, d) to (N, 1)."""
    return nn.Linear(feature_dim, 1)


def refuse_word_head(task: str, word_head: nn.Module | None) -> None:
    """Raise ``ValueError`` if a head made from words is given to a task with classes that are not words."""
    if word_head is not None:
        raise ValueError(f"task {task}: its classes are not answers in words; use a random head")
