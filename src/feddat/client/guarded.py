"""AdamW whose steps hide the size of gradients, and single pictures (``privacy.guarded_steps``).

A server that chooses the adapter's numbers can build units that read one token of one picture, and then reads that
token off their gradient (docs/audit.md). Two things protect it here:

- **Size**: AdamW's step is g / (|g| + ε) in the simplest case. It passes gradients on if they are small beside ε, and
  shows their size in its last digits even if they are not. Here, gradients are scaled far above ε before the step. So
  the step does not change if all of a number's gradients are multiplied by the same positive factor. Gradients that are
  too small or too large for that count as 0.
- **Number**: a number that changed in too few steps gets its received value back. It stays changed only if at least
  :data:`PICTURES` pictures in different batches moved it, and at least half of all steps. Examples often share a
  picture, so the batches of each picture are counted.

Signs remain, and so does what many examples have in common: this is no proof of privacy, only noise is
(``privacy.epsilon``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

#: Fewest pictures, in different batches, without which a number does not change.
PICTURES = 4
#: Sizes of gradients that count; others count as 0. Honest gradients are far from both ends.
SMALLEST, LARGEST = 1e-18, 1e9
#: Gradients are multiplied by this (a power of two, so exactly), so that their squares are within float32's range.
_SCALE = 2.0**30
#: AdamW's ε beside gradients of this scale: less than float32 resolves even beside the smallest.
_EPS = 1e-17


def steps_needed(steps: int, repeats: int, shared: int = 0) -> int:
    """Return in how many of its steps a number must move to stay changed; more than ``steps``: nothing can change.

    Args:
        steps: of the round in which this number could move.
        repeats: most batches of the round that hold the same example, which is the number of epochs.
        shared: most batches of the round that hold the same picture. If one picture is in more than a quarter of the
            batches, all steps must move the number, which then takes fewer than :data:`PICTURES` pictures.
    """
    return max(math.ceil(steps / 2), PICTURES * repeats, min(PICTURES * shared, steps))


def most_batches(plan: Iterable[Sequence[int]], contents: Sequence[Iterable[Hashable]]) -> int:
    """Return in how many batches the most frequent content is.

    Args:
        plan: the examples of each batch, by index.
        contents: of each example, such as its pictures.
    """
    counts = Counter(content for batch in plan for content in {each for index in batch for each in contents[index]})
    return max(counts.values(), default=0)


class GuardedAdamW(torch.optim.AdamW):
    """AdamW with both protections, for one round.

    Args:
        parameters: as of :class:`torch.optim.AdamW`, like the other arguments.
        leaving: the parameters among them that leave the client; only their changes need several pictures.

    The first running mean must not decay more slowly than the second (β₁ ≤ β₂). Otherwise steps grow after a lone
    gradient until they reach ε.
    """

    def __init__(
        self,
        parameters: ParamsT,
        leaving: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        fused: bool | None = None,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=_EPS, fused=fused)
        first, second = betas
        if first > second:
            raise ValueError(f"betas {first:g}, {second:g}: expected the first to be at most the second")
        self._leaving = set(leaving)
        # By parameter that leaves: its value before its first step, how often each number moved, and how many steps.
        self._before: dict[Tensor, Tensor] = {}
        self._moved: dict[Tensor, Tensor] = {}
        self._steps: dict[Tensor, int] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step; gradients are scaled in place, and those that do not count become 0."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._watch(parameter, parameter.grad)
        return super().step(closure)

    def _watch(self, parameter: Tensor, gradient: Tensor) -> None:
        size = gradient.abs()
        # NaN is kept, so that the check for finite losses and gradients finds it.
        counts = (size >= SMALLEST) & (size <= LARGEST) | size.isnan()
        gradient.mul_(counts).mul_(_SCALE)
        if parameter not in self._leaving:
            return
        if parameter not in self._before:
            self._before[parameter] = parameter.detach().clone()
            self._moved[parameter] = torch.zeros_like(parameter, dtype=torch.int32)
            self._steps[parameter] = 0
        self._moved[parameter] += counts
        self._steps[parameter] += 1

    @property
    def fewest_steps(self) -> int:
        """Fewest steps of a parameter that leaves and had a gradient."""
        return min(self._steps.values(), default=0)

    @torch.no_grad()
    def finish(self, repeats: int, shared: int = 0) -> float:
        """Give numbers that moved in too few steps their received value back; return the share of those that moved.

        Args:
            repeats: see :func:`steps_needed`.
            shared: see :func:`steps_needed`.

        Returns:
            The share of numbers with a counting gradient that did not stay changed, between 0 and 1.
        """
        moved = returned = 0
        for parameter, before in self._before.items():
            often = self._moved[parameter]
            too_few = often < steps_needed(self._steps[parameter], repeats, shared)
            parameter.copy_(torch.where(too_few, before, parameter))
            moved += int((often > 0).sum())
            returned += int(((often > 0) & too_few).sum())
        return returned / moved if moved else 0.0
