"""Norms and weighted sums of examples' gradients, such that no example moves a sum by more than the clip.

This holds in floating point. A gradient that is formed is formed in float32, and its float32 numbers are what counts.
Sums of their squares, and of few clipped gradients, are taken in float32 too: nothing cancels there, so a bound on
rounding is a small part of the result, and it is allowed for. Where a gradient is never formed, everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Unit roundoff of float32 and of float64.
_SINGLE, _DOUBLE = 2.0**-24, 2.0**-53
#: Smallest normal float32. Whatever is smaller may count as 0.
_TINY = 2.0**-126
#: Clipped gradients that are added up in float32; the sums of so many are added up in float64.
_TOGETHER = 8
#: A gradient is formed if it has at most this many times the numbers that it follows from.
_LARGER = 4
#: Factors of smaller norms, with clips above the inverse, keep all digits in float32.
_HUGE = 2.0**50


def margin(examples: int) -> float:
    """Return the part of the clip C that is kept for rounding in a sum of N examples.

    Let no gradient be longer than c once it is clipped. Its factor and its product are rounded, each time by u = 2⁻²⁴
    at most, so it becomes c·(1 + 3u). A float32 sum of 8 is off by 8·u of the sum of its terms' lengths, and so all of
    them together by 8·u·N·c, with an example and without it. The parameters that are :class:`Unformed` add as much
    again, at a right angle. So an example moves a sum by at most c·(1 + (3 + 16·√2·N)·u).
    """
    return (4 + 3 * _TOGETHER * examples) * _SINGLE


def factors(squared: Tensor, clip: float, counts: Tensor | None = None) -> Tensor:
    """Return wᵢ·min(1, C/‖gᵢ‖), 0 for gradients that are not finite; (N,) float32, or float64 where that is needed.

    Args:
        squared: ‖gᵢ‖² over all parameters, (N,) float64.
        clip: C.
        counts: wᵢ (N,), 0 or 1; default: all 1.
    """
    norms = squared.sqrt()
    most = clip * (1 - margin(len(norms)))
    found = torch.where(norms.isfinite(), most / norms.clamp(min=most), 0.0)
    if counts is not None:
        found = found * counts.to(found)
    return found.float() if clip > 1 / _HUGE and bool((norms < _HUGE).all()) else found


@dataclass(frozen=True)
class Formed:
    """One parameter's gradient by example.

    Attributes:
        gradients: (N, ...) float32.
    """

    gradients: Tensor

    def each(self) -> Tensor:
        """Return each example's gradient, (N, ...) float32."""
        return self.gradients

    def squared(self) -> Tensor:
        """Return an upper bound of each example's squared norm, (N,) float64; all but four digits are right."""
        rows = self.gradients.flatten(1, -2) if self.gradients.dim() > 2 else self.gradients[:, None]
        terms = rows.shape[2]
        sums = rows.square().sum(dim=2).double()
        squared: Tensor = (sums * (1 + 2 * (terms + 1) * _SINGLE) + terms * _TINY).sum(dim=1)
        if not squared.isfinite().all():  # beyond what float32 holds, or not finite themselves
            squared = rows.double().square().sum(dim=(1, 2))
        return squared

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return Σᵢ fᵢ·gᵢ in float64.

        Args:
            factors: fᵢ (N,), float32 or float64, the precision of the products.
            finite: (N,) bool; gradients of the others count as 0.
        """
        rows = self.gradients
        apart = (-1, *[1] * (rows.dim() - 1))
        if not finite.all():
            rows = rows.masked_fill(~finite.view(apart), 0.0)
        rows = rows * factors.view(apart)
        left = len(rows) % _TOGETHER
        blocks = rows[: len(rows) - left].view(-1, _TOGETHER, *rows.shape[1:]) if len(rows) > left else rows[:0, None]
        total: Tensor = blocks.sum(dim=1).double().sum(dim=0)
        return total + rows[len(rows) - left :].sum(dim=0) if left else total


class Unformed:
    """A linear layer's gradient by example as the inputs and gradients of its tokens: Σₗ gₗ xₗᵀ.

    Args:
        inputs: x (N, tokens, in) float32.
        gradients: g (N, tokens, out) float32.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor) -> None:
        self._inputs, self._gradients = inputs.double(), gradients.double()

    def each(self) -> Tensor:
        """Return each example's gradient, (N, out, in) float32."""
        return (self._gradients.transpose(1, 2) @ self._inputs).float()

    def squared(self) -> Tensor:
        """Return an upper bound of each example's squared norm, (N,) float64.

        It is the squared norm to the last digits, unless an example's tokens cancel each other almost entirely.
        """
        x, g = self._inputs, self._gradients
        alike = (x @ x.transpose(1, 2)) * (g @ g.transpose(1, 2))
        # |error| of the sum over pairs of tokens, and what the rounding of `weighted` adds: each at most
        # γₙ·(Σₗ‖xₗ‖‖gₗ‖)², where n is the number of roundings that one number goes through.
        examples, tokens = x.shape[:2]
        roundings = tokens * tokens + examples * tokens + x.shape[2] + g.shape[2] + 8
        size = (x.norm(dim=2) * g.norm(dim=2)).sum(dim=1)
        # `weighted` rounds the sum of all examples by γₙ·Σᵢ fᵢ·size: with this term, less than the margin allows for.
        others = (roundings * _DOUBLE / (_TOGETHER * _SINGLE)) ** 2
        bound: Tensor = alike.sum(dim=(1, 2)).clamp(min=0.0) + (4 * roundings * _DOUBLE + others) * size.square()
        return bound

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return Σᵢ fᵢ·gᵢ in float64, as :meth:`Formed.weighted` does."""
        hidden = ~finite[:, None, None]
        weighed = self._gradients.masked_fill(hidden, 0.0) * factors[:, None, None]
        total: Tensor = weighed.flatten(0, 1).T @ self._inputs.masked_fill(hidden, 0.0).flatten(0, 1)
        return total


def linear(inputs: Tensor, gradients: Tensor) -> Formed | Unformed:
    """Return the gradient of a linear layer's weight by example.

    Args:
        inputs: x (N, tokens, in) float32.
        gradients: g (N, tokens, out) float32.
    """
    tokens, wide, out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if wide * out > _LARGER * tokens * (wide + out):
        return Unformed(inputs, gradients)
    return Formed(gradients.transpose(1, 2) @ inputs)
