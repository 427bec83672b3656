"""NLVR2: is a sentence true for a pair of images?

Suhr et al., "A Corpus for Reasoning about Natural Language Grounded in Photographs", ACL 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from feddat.example import LABELS, DataError, Example, View
from feddat.tasks.heads import classifier_head, refuse_word_head
from feddat.tasks.labels import label_loss, label_scores, label_targets


class Nlvr2:
    """Two images, each paired with the sentence; the head takes both pooled features, concatenated."""

    name = "nlvr2"
    views_per_example = 2
    classes: tuple[str, ...] = LABELS["nlvr2"]
    loss = staticmethod(label_loss)
    scores = staticmethod(label_scores)

    def views(self, example: Example) -> list[View]:
        """Return the left and the right image, each paired with the sentence."""
        if len(example.images) != 2:
            raise DataError(f"example {example.id}: {len(example.images)} images; expected 2 for nlvr2")
        return [View(image, example.text) for image in example.images]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return 1 where the sentence is true and 0 elsewhere, (N,) long."""
        return label_targets(examples, self.classes)

    def build_head(self, feature_dim: int, word_head: nn.Module | None = None) -> nn.Module:
        """Return a random classifier (N, 2d) to (N, 2)."""
        refuse_word_head(self.name, word_head)
        return classifier_head(feature_dim, len(self.classes), images=2)

    def logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Map pooled features (2N, d), with adjacent rows for an example's two images, to logits (N, 2)."""
        logits: Tensor = head(features.reshape(-1, 2 * features.shape[1]))
        return logits
