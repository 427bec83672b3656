"""Norms and weighted sums of examples' gradients, such that no example moves a sum by more than the clip.

This holds in floating point. What an example adds to a sum follows from that example and from public numbers alone: its
norm and its factor do not depend on the other examples, on how many there are, or on the longest text of the batch. So
only the rounding of the sum itself is shared, and :func:`margin` leaves room for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Unit roundoff of float32 and of float64.
_SINGLE, _DOUBLE = 2.0**-24, 2.0**-53
#: Smallest normal float32. Whatever is smaller may count as 0.
_TINY = 2.0**-126
#: Numbers that are added up in float32; such sums are added up in float64.
_GROUP = 8
#: Largest sum for which products and groups are in float32; the margin grows with it.
_LARGEST = 4096
#: Factors of smaller norms, with clips above the inverse, keep all digits in float32.
_HUGE = 2.0**50
#: A gradient is kept if it has at most this many times the numbers that it follows from.
_KEPT = 4


@dataclass(frozen=True)
class Clip:
    """How far one example may move a sum.

    Attributes:
        norm: C, the largest L2 norm.
        most: the number of examples that rounding is allowed for. It must be public: chosen without looking at how many
            there are in a sample. Sums of more are taken in float64.
    """

    norm: float
    most: int

    @classmethod
    def of_samples(cls, norm: float, expected: float) -> Clip:
        """Return the clip for samples whose mean size is ``expected``."""
        return cls(norm, 2 * math.ceil(expected) + 64)

    @property
    def single(self) -> bool:
        """Whether products and small sums may be in float32."""
        return self.most <= _LARGEST and self.norm > 1 / _HUGE

    @property
    def limit(self) -> float:
        """The norm that gradients are clipped to: C, less what rounding can add."""
        return self.norm * (1 - margin(self.most, self.single))


def margin(most: int, single: bool = True) -> float:
    """Return the part of C that is kept for rounding in a sum of N ≤ ``most`` examples.

    Let c be the largest norm of a clipped gradient, and u = 2⁻²⁴. Factor and product are rounded, so the example adds
    at most c·(1 + 3u). A float32 sum of 8 is off by 8·u of its terms' norms, so all of them by 8·u·N·c, with the
    example and without it: 16·u·N·c. Parameters with :class:`Unformed` gradients add as much at a right angle: 22.7. If
    one huge example, or one more than ``most``, turns float32 into float64, factors and products differ by 3u on one
    side. The order in which a device adds up squares may depend on N, which changes norms by less than 6u. Together, an
    example moves the sum by at most c·(1 + 3u + 32·N·u). With float64, a sum is off by N·N·2⁻⁵³·c.

    Raises:
        ValueError: rounding could be half of C.
    """
    part = (4 + 32 * most) * _SINGLE if single else 4 * (1 + most) ** 2 * _DOUBLE
    if part >= 0.5:
        raise ValueError(f"a sum of {most} examples cannot be clipped in float64; expected smaller batches")
    return part


def factors(squared: Tensor, clip: Clip, counts: Tensor | None = None) -> Tensor:
    """Return wᵢ·min(1, C/‖gᵢ‖), 0 for gradients that are not finite; (N,) float32, or float64 where that is needed.

    Args:
        squared: ‖gᵢ‖² over all parameters, (N,) float64.
        clip: C, and the number of examples that it holds for.
        counts: wᵢ (N,), 0 or 1; default: all 1.
    """
    norms = squared.sqrt()
    found = torch.where(norms.isfinite(), clip.limit / norms.clamp(min=clip.limit), 0.0)
    if counts is not None:
        found = found * counts.to(found)
    single = clip.single and len(norms) <= clip.most and bool((norms < _HUGE).all())
    return found.float() if single else found


class Formed:
    """One parameter's gradient by example.

    Args:
        gradients: (N, ...) float32. Its numbers, as they were rounded, are what counts.
    """

    def __init__(self, gradients: Tensor) -> None:
        self._gradients = gradients

    def each(self) -> Tensor:
        """Return each example's gradient, (N, ...) float32."""
        return self._gradients

    def squared(self, clip: Clip) -> Tensor:
        """Return an upper bound of each example's squared norm, (N,) float64; all but five digits are right."""
        rows = self.each().flatten(1)
        if not clip.single:
            return rows.double().square().sum(dim=1)
        # Squares add up without cancellation, so their sum is off by a fraction of itself.
        squared = _added(rows.square(), 1) * (1 + 2 * (_GROUP + 2) * _SINGLE) + rows.shape[1] * _TINY
        beyond = ~squared.isfinite()
        if beyond.any():  # squares that float32 does not hold, of these examples alone
            squared[beyond] = rows[beyond].double().square().sum(dim=1)
        return squared

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return Σᵢ fᵢ·gᵢ in float64.

        Args:
            factors: fᵢ (N,), float32 or float64, the precision of the products.
            finite: (N,) bool; gradients of the others count as 0.
        """
        rows = self.each()
        apart = (-1, *[1] * (rows.dim() - 1))
        if not finite.all():
            rows = rows.masked_fill(~finite.view(apart), 0.0)
        return _added(rows * factors.view(apart), 0)


class Reformed(Formed):
    """The gradient of a linear layer that sees sequences, formed anew for each use so that it takes no memory between.

    Args:
        inputs: x (N, tokens, in) float32.
        gradients: g (N, tokens, out) float32.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor) -> None:
        self._inputs, self._gradients = inputs, gradients

    def each(self) -> Tensor:
        """Return each example's Σₗ gₗ xₗᵀ, (N, out, in) float32."""
        with torch.autocast(self._inputs.device.type, enabled=False):
            return self._gradients.transpose(1, 2) @ self._inputs


class Unformed:
    """The gradient of a linear layer that sees one vector of each example per use, such as a head: Σₗ gₗ xₗᵀ over uses.

    Args:
        inputs: x (N, uses, in) float32.
        gradients: g (N, uses, out) float32.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor) -> None:
        self._inputs, self._gradients = inputs.double(), gradients.double()

    def each(self) -> Tensor:
        """Return each example's gradient, (N, out, in) float32."""
        return (self._gradients.transpose(1, 2) @ self._inputs).float()

    def squared(self, clip: Clip) -> Tensor:
        """Return an upper bound of each example's squared norm, (N,) float64.

        It is the squared norm to the last digits, unless an example's uses cancel each other almost entirely.
        """
        x, g = self._inputs, self._gradients
        alike = (x @ x.transpose(1, 2)) * (g @ g.transpose(1, 2))
        # |error| of the sum over pairs of uses, and what the rounding of `weighted` adds: each at most
        # γₙ·(Σₗ‖xₗ‖‖gₗ‖)², where n is the number of roundings that one number goes through.
        uses = x.shape[1]
        roundings = uses * uses + clip.most * uses + x.shape[2] + g.shape[2] + 8
        size = (x.norm(dim=2) * g.norm(dim=2)).sum(dim=1)
        # `weighted` rounds the sum of all examples by γₙ·Σᵢ fᵢ·size: with this term, less than the margin allows for.
        others = (roundings * _DOUBLE / (_GROUP * _SINGLE)) ** 2
        bound: Tensor = alike.sum(dim=(1, 2)).clamp(min=0.0) + (4 * roundings * _DOUBLE + others) * size.square()
        return bound

    def weighted(self, factors: Tensor, finite: Tensor) -> Tensor:
        """Return Σᵢ fᵢ·gᵢ in float64, as :meth:`Formed.weighted` does."""
        hidden = ~finite[:, None, None]
        weighed = self._gradients.masked_fill(hidden, 0.0) * factors[:, None, None]
        total: Tensor = weighed.flatten(0, 1).T @ self._inputs.masked_fill(hidden, 0.0).flatten(0, 1)
        return total


def linear(inputs: Tensor, gradients: Tensor) -> Formed:
    """Return the gradient by example of the weight of a linear layer that sees sequences.

    It is the same number for number, whether it is kept or formed anew.

    Args:
        inputs: x (N, tokens, in) float32.
        gradients: g (N, tokens, out) float32.
    """
    tokens, wide, out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    anew = Reformed(inputs, gradients)
    return anew if wide * out > _KEPT * tokens * (wide + out) else Formed(anew.each())


def _added(values: Tensor, dim: int) -> Tensor:
    """Return the sum over a dimension in float64; groups of 8 are added up in the values' own precision."""
    size = values.shape[dim]
    groups = size // _GROUP
    even, left = values.split([groups * _GROUP, size - groups * _GROUP], dim)  # type: ignore[no-untyped-call]
    total: Tensor = left.sum(dim, dtype=torch.float64)
    if groups:
        shape = (*values.shape[:dim], _GROUP, groups, *values.shape[dim + 1 :])
        total = total + even.reshape(shape).sum(dim).sum(dim, dtype=torch.float64)
    return total
