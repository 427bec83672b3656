"""The interface of a task: views of an example, targets, head, loss and score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from feddat.example import Example, View


class Task(Protocol):
    """One kind of question, with its personal head, its loss and its score.

    Attributes:
        name: key in :data:`feddat.tasks.TASKS`.
        views_per_example: V, forward passes of the backbone per example (1 for VQA and SNLI-VE, 2 for NLVR2, 4 for
            VCR).
        classes: the class names of the logits in index order, for reports and predictions.
    """

    name: str
    views_per_example: int
    classes: tuple[str, ...]

    def views(self, example: Example) -> list[View]:
        """Return the V views of one example."""
        ...

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return targets: soft scores (N, C) float for VQA, class indices (N,) long otherwise.

        Raises:
            DataError: an example lacks what the task needs; the message names the example.
        """
        ...

    def build_head(self, feature_dim: int, word_head: nn.Module | None = None) -> nn.Module:
        """Return a new personal head: ``word_head`` if given, else a random one (from torch's global generator).

        Raises:
            ValueError: ``word_head`` was given, but the task's classes are not words.
        """
        ...

    def logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Map pooled features (N * V, d) to logits (N, C)."""
        ...

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar task loss, mean over the batch."""
        ...

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one score in [0, 1] per example, shape (N,), float."""
        ...
