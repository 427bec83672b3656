"""Visual commonsense reasoning, question to answer: which of four answers is right?

Zellers et al., "From Recognition to Cognition: Visual Commonsense Reasoning", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from feddat.example import VCR_CHOICES, DataError, Example, View
from feddat.tasks.heads import choice_head, refuse_word_head
from feddat.tasks.labels import label_loss, label_scores, label_targets


class Vcr:
    """One image and one question with four answers; each answer is scored separately."""

    name = "vcr"
    views_per_example = 4
    classes: tuple[str, ...] = tuple(f"answer {place + 1}" for place in range(VCR_CHOICES))
    loss = staticmethod(label_loss)
    scores = staticmethod(label_scores)

    def views(self, example: Example) -> list[View]:
        """Return the image four times, paired with the question followed by each answer."""
        if len(example.images) != 1:
            raise DataError(f"example {example.id}: {len(example.images)} images; expected 1 for vcr")
        if len(example.choices) != self.views_per_example:
            raise DataError(f"example {example.id}: {len(example.choices)} choices; expected 4 for vcr")
        return [View(example.images[0], f"{example.text} {choice}") for choice in example.choices]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return the index of the right answer, (N,) long."""
        return label_targets(examples, self.classes)

    def build_head(self, feature_dim: int, word_head: nn.Module | None = None) -> nn.Module:
        """Return a random scorer (N, d) to (N, 1)."""
        refuse_word_head(self.name, word_head)
        return choice_head(feature_dim)

    def logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Map pooled features (4N, d), with adjacent rows for an example's four answers, to logits (N, 4)."""
        logits: Tensor = head(features)
        return logits.view(-1, self.views_per_example)
