"""Visual question answering as classification over a client's own answers, with soft targets.

Antol et al., "VQA: Visual Question Answering", ICCV 2015. Soft targets and loss follow ViLT (ICML 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feddat.example import DataError, Example, View
from feddat.tasks.heads import classifier_head


def vqa_score(count: int) -> float:
    """Return the score of an answer that ``count`` annotators gave: 0, 0.3, 0.6, 0.9, and 1 from 4 on."""
    return min(10, 3 * count) / 10


class Vqa:
    """One image and one question; the classes are the client's answer vocabulary.

    Raises:
        ValueError: ``answers`` is empty or contains an answer twice.
    """

    name = "vqa"
    views_per_example = 1

    def __init__(self, answers: Sequence[str]) -> None:
        if not answers:
            raise ValueError("task vqa: the answer vocabulary is empty")
        self.classes = tuple(answers)
        self._index = {answer: i for i, answer in enumerate(self.classes)}
        if len(self._index) != len(self.classes):
            twice = next(answer for i, answer in enumerate(self.classes) if self._index[answer] != i)
            raise ValueError(f"task vqa: answer {twice!r} is in the vocabulary twice")

    def views(self, example: Example) -> list[View]:
        """Return the image paired with the question."""
        if len(example.images) != 1:
            raise DataError(f"example {example.id}: {len(example.images)} images; expected 1 for vqa")
        return [View(example.images[0], example.text)]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return soft scores (N, answers); answers outside the vocabulary are dropped, so a row can be all zeros.

        Raises:
            DataError: an example has no answers, or a score outside [0, 1]; the message names the example.
        """
        targets = torch.zeros(len(examples), len(self.classes))
        for row, example in zip(targets, examples, strict=True):
            if not example.answers:
                raise DataError(f"example {example.id}: no answers; expected at least one for vqa")
            for answer, score in example.answers.items():
                if not 0 <= score <= 1:
                    raise DataError(f"example {example.id}: answer {answer!r} has score {score}; expected 0 to 1")
                if answer in self._index:
                    row[self._index[answer]] = score
        return targets

    def build_head(self, feature_dim: int, word_head: nn.Module | None = None) -> nn.Module:
        """Return ``word_head`` if given, else a random classifier (N, d) to (N, answers)."""
        return classifier_head(feature_dim, len(self.classes)) if word_head is None else word_head

    def logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Map pooled features (N, d) to logits (N, answers)."""
        logits: Tensor = head(features)
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return binary cross-entropy, summed over answers, mean over the batch."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype)) * logits.shape[1]

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the soft score of each argmax, (N,); 0 for a row of −inf, which has no answer of the vocabulary."""
        best = logits.max(dim=1, keepdim=True)
        return targets.gather(1, best.indices).masked_fill(best.values == -torch.inf, 0.0).squeeze(1)
