"""Visual question answering with written answers: the loss of answers that are generated token by token.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021
(arXiv 2107.07651), section on VQA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from feddat.example import DataError, Example


def answer_shares(example: Example) -> dict[str, float]:
    """Return the share of each annotated answer: its score divided by the sum of scores (0 for all if the sum is 0).

    ALBEF uses shares of annotators; scores are proportional to them unless a score is capped at 1.

    Raises:
        DataError: the example has no answers; the message names it.
    """
    if not example.answers:
        raise DataError(f"example {example.id}: no answers; expected at least one for vqa")
    total = sum(example.answers.values())
    return {answer: score / total if total else 0.0 for answer, score in example.answers.items()}


def token_losses(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return −log p of each token, (M, L), 0 where ``mask`` is false.

    Args:
        logits: (M, L, V), for the token at the same position.
        tokens: ids (M, L).
        mask: (M, L) bool, the positions that count.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return losses.masked_fill(~mask, 0.0)


def soft_token_losses(logits: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return Σᵥ q(v) · (−log p(v)) of each token, (M, L), 0 where ``mask`` is false.

    Args:
        logits: (M, L, V), logits of p.
        teacher: (M, L, V), logits of q; no gradient flows into them.
        mask: (M, L) bool, the positions that count.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    expected = teacher.detach().to(dtype).softmax(dim=-1)
    losses = -(expected * logits.to(dtype).log_softmax(dim=-1)).sum(dim=-1)
    return losses.masked_fill(~mask, 0.0)


def answer_loss(
    logits: Tensor,
    tokens: Tensor,
    mask: Tensor,
    weights: Tensor,
    questions: int,
    teacher: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Return Σₖ wₖ · (−log p(answer k)) / ``questions``, a scalar.

    With a teacher, each token's loss is (1 − ``alpha``) times −log p plus ``alpha`` times :func:`soft_token_losses`.

    Args:
        logits: (M, L, V), for the token at the same position.
        tokens: ids (M, L) of the M answers to all questions of the batch.
        mask: (M, L) bool, the positions that count.
        weights: wₖ, (M,).
        questions: number of questions in the batch.
        teacher: logits (M, L, V) of soft targets.
        alpha: weight of the soft targets, in [0, 1].
    """
    losses = token_losses(logits, tokens, mask)
    if teacher is not None:
        losses = (1.0 - alpha) * losses + alpha * soft_token_losses(logits, teacher, mask)
    losses = losses.sum(dim=1)
    return (weights.to(losses.dtype) * losses).sum() / questions
