"""What gives a training example away: functions of gradients and updates that return scores (n,) for n examples.

A score is higher for an example that the attacker takes for a member. Updates point where the training loss falls, so
the gradient of an example that was trained on points against them more often than that of another one.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Added to the variance of gradients in every direction, as a share of their mean variance in those that they have.
RIDGE = 0.03
#: Added to the size of each entry of the gradients, as a share of the mean size.
_LEAST = 0.01


def cosine(gradients: Tensor, update: Tensor) -> Tensor:
    """Return −cos(g, Δ), (n,), of gradients (n, D) and an update (D,); 0 where one of them is 0."""
    norms = gradients.norm(dim=1) * update.norm()
    found: Tensor = -(gradients @ update) / norms.clamp_min(torch.finfo(gradients.dtype).tiny)
    return found


def whitened(gradients: Tensor, updates: Tensor, reference: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return −(g − μ)ᵀ (Σ + λI)⁻¹ Δ for each of several updates, (k, n): the matched filter for g in Δ.

    μ and Σ are mean and covariance of reference gradients, which come from the same distribution and were not trained
    on. What all examples have in common is in μ and along Σ's large directions, and says nothing of any one of them.

    Args:
        gradients: (n, D).
        updates: (k, D).
        reference: (r, D), r ≥ 2.
        ridge: λ as a share of the mean eigenvalue of Σ within the span of the reference.

    Raises:
        ValueError: there are fewer than two reference gradients.
    """
    count = len(reference)
    if count < 2:
        raise ValueError("whitening needs at least two reference gradients")
    mean = reference.mean(dim=0)
    centred = reference - mean
    # There are r gradients in D > r dimensions. By Woodbury, an r x r system replaces the D x D one; float64 there
    # costs nothing, and the products with D are the work.
    gram = (centred @ centred.T).double() / (count - 1)
    regulariser = ridge * gram.trace() / (count - 1) + torch.finfo(torch.float64).tiny
    system = gram + regulariser * torch.eye(count, dtype=torch.float64)
    inside = torch.linalg.solve(system, (centred @ updates.T).double() / (count - 1))
    along = (gradients @ updates.T - mean @ updates.T).double()
    across = (gradients @ centred.T - mean @ centred.T).double()
    found: Tensor = -(along - across @ inside) / regulariser
    return found.T


def scaled(gradients: Tensor, reference: Tensor) -> Tensor:
    """Return gradients (n, D) divided by the root mean square of reference gradients (r, D), entry by entry.

    AdamW moves every entry about equally far, whatever the size of its gradient. In these units an update is closer to
    a sum of gradients.
    """
    size = reference.square().mean(dim=0).sqrt()
    return gradients / (size + _LEAST * size.mean() + torch.finfo(size.dtype).tiny)


def calibrated(own: Tensor, expected: Tensor, norms: Tensor) -> Tensor:
    """Return how far scores (n,) are above what they would be without the example, by the size of its gradient.

    Args:
        own: of the attacked update, linear in the gradient (:func:`whitened`).
        expected: (k, n), of k updates by clients that did not train on the example.
        norms: (n,), of the gradients.
    """
    return (own - expected.mean(dim=0)) / norms.clamp_min(torch.finfo(norms.dtype).tiny)


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
