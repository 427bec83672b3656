"""What gives a training example away: functions of losses, gradients and updates, each (n,) scores for n examples.

A score is higher for whom the attacker takes for a member. Updates point where the training loss falls, so that the
gradient of an example that was trained on points against them more often than that of another one.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Added to the variance of gradients in every direction, as a share of their mean variance in those that they have.
RIDGE = 0.1


def cosine(gradients: Tensor, update: Tensor) -> Tensor:
    """Return −cos(g, Δ), (n,), of gradients (n, D) and an update (D,); 0 where one of them is 0."""
    norms = gradients.norm(dim=1) * update.norm()
    found: Tensor = -(gradients @ update) / norms.clamp_min(torch.finfo(gradients.dtype).tiny)
    return found


def whitened(gradients: Tensor, update: Tensor, reference: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return −(g − μ)ᵀ (Σ + λI)⁻¹ Δ, (n,): the matched filter for g in Δ.

    μ and Σ are mean and covariance of reference gradients, of the same distribution and not trained on. What all
    examples have in common is in μ and along Σ's large directions, and says nothing of any one of them.

    Args:
        gradients: (n, D).
        update: (D,).
        reference: (k, D), k ≥ 2.
        ridge: λ as a share of the mean eigenvalue of Σ within the span of the reference.

    Raises:
        ValueError: fewer than two references.
    """
    count = len(reference)
    if count < 2:
        raise ValueError("whitening needs at least two reference gradients")
    mean = reference.mean(dim=0)
    centred = reference - mean
    # Of k gradients in D > k dimensions; by Woodbury, a k x k system stands for the D x D one.
    gram = centred @ centred.T / (count - 1)
    regulariser = ridge * gram.trace() / (count - 1) + torch.finfo(gram.dtype).tiny
    system = gram + regulariser * torch.eye(count, dtype=gram.dtype)
    inside = torch.linalg.solve(system, centred @ update / (count - 1))
    direction = (update - centred.T @ inside) / regulariser
    found: Tensor = -((gradients - mean) @ direction)
    return found


def against_others(own: Tensor, others: Tensor) -> Tensor:
    """Return how far a score is above those of the same example at clients that do not have it.

    After FedMIA (Zhu et al., "FedMIA: An Effective Membership Inference Attack Exploiting 'All for One' Principle in
    Federated Learning", CVPR 2025): the updates of clients that never saw an example say how it scores as a non-member.
    The spread is that over all examples and clients: with few clients one example's own would be mostly luck.

    Args:
        own: (n,), from the attacked client's update.
        others: (k, n), from k other clients' updates.
    """
    centre = others.mean(dim=0)
    spread = (others - centre).square().mean().sqrt() if len(others) > 1 else torch.ones(())
    return (own - centre) / spread.clamp_min(torch.finfo(own.dtype).tiny)


def standardised(scores: Tensor, reference: Tensor) -> Tensor:
    """Return scores (n,) in standard deviations above the mean of reference scores (k,), of known non-members.

    So scores of different rounds and clients can be added and compared. Constant references are only subtracted.
    """
    spread = reference.std(correction=0)
    centred = scores - reference.mean()
    return centred / spread if spread > 0 else centred
