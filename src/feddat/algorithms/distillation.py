"""Distillation between two sets of logits (docs/method/feddat.md, "The objective").

``KL_T(student ‖ teacher) = T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, with a detached teacher. The factor
T² keeps the size of the gradients independent of the temperature (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Return KL_T(student ‖ teacher), a scalar.

    Args:
        student: logits (N, C), or token-level logits (N, L, V) of generated answers.
        teacher: logits of the same shape; no gradient flows into them.
        temperature: T > 0.
        mask: (N, L) bool, the answer positions that count; only for token-level logits.

    Returns:
        The divergence summed over classes (and over answer positions), mean over the N examples.

    Raises:
        ValueError: the shapes do not match.
    """
    if student.shape != teacher.shape or student.ndim not in (2, 3):
        raise ValueError(
            f"distillation: expected two logits of the same shape (N, C) or (N, L, V), "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if mask is not None and mask.shape != student.shape[:-1]:
        raise ValueError(f"distillation: mask {tuple(mask.shape)} does not match logits {tuple(student.shape)}")
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)
    if mask is not None:
        divergence = divergence.masked_fill(~mask, 0.0)
    return divergence.sum() * (temperature**2 / student.shape[0])


def ramp(weight: float, round: int, rounds: int) -> float:
    """Return the weight of distillation in ``round`` (1-based) if it ramps up over ``rounds`` (0: no ramp).

    w(t) = w · exp(−5 · (1 − t/R)²) for t < R, then w.
    """
    if round >= rounds:
        return weight
    return weight * math.exp(-5.0 * (1.0 - round / rounds) ** 2)
