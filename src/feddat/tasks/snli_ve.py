"""Visual entailment: does an image entail a sentence, contradict it, or neither?

Xie et al., "Visual Entailment: A Novel Task for Fine-Grained Image Understanding", 2019 (arXiv 1901.06706).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from feddat.example import LABELS, DataError, Example, View
from feddat.tasks.heads import classifier_head, refuse_word_head
from feddat.tasks.labels import label_loss, label_scores, label_targets


class SnliVe:
    """One image and one sentence, classified into three classes."""

    name = "snli-ve"
    views_per_example = 1
    classes: tuple[str, ...] = LABELS["snli-ve"]
    loss = staticmethod(label_loss)
    scores = staticmethod(label_scores)

    def views(self, example: Example) -> list[View]:
        """Return the image paired with the sentence."""
        if len(example.images) != 1:
            raise DataError(f"example {example.id}: {len(example.images)} images; expected 1 for snli-ve")
        return [View(example.images[0], example.text)]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return class indices, (N,) long."""
        return label_targets(examples, self.classes)

    def build_head(self, feature_dim: int, word_head: nn.Module | None = None) -> nn.Module:
        """Return a random classifier (N, d) to (N, 3)."""
        refuse_word_head(self.name, word_head)
        return classifier_head(feature_dim, len(self.classes))

    def logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Map pooled features (N, d) to logits (N, 3)."""
        logits: Tensor = head(features)
        return logits
