"""AdamW whose steps hide the size of gradients, and single pictures (``privacy.guarded_steps``).

A server that chooses the adapter's numbers can build units that read one token of one picture, and then reads that
token off their gradient (docs/audit.md). Two things protect what leaves:

- **Signs**: a step uses only the sign of each gradient, as signSGD does (Bernstein et al., 2018, arXiv 1802.04434). So
  nothing shows how large a gradient was, and no batch counts for more than another.
- **Number**: a number that changed in too few steps gets its received value back. It stays changed only if at least
  :data:`PICTURES` pictures in different batches moved it, and at least half of all steps. Examples often share a
  picture, so the batches of each picture are counted.

Signs of sums remain, and so does what many pictures have in common. Within a round, one picture can change what later
batches do: a number that it moved acts until the end of the round. So this is no proof of privacy, only noise is
(``privacy.epsilon``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

#: Fewest pictures, in different batches, without which a number does not change.
PICTURES = 4


@dataclass(frozen=True, slots=True)
class Guard:
    """What guarded steps protect in one round, and how often content comes back.

    Attributes:
        leaving: the parameters that leave the client.
        examples: most batches that hold the same example, which is the number of epochs.
        pictures: most batches that hold the same picture.
    """

    leaving: Sequence[Tensor]
    examples: int
    pictures: int = 0

    def needs(self, steps: int) -> int:
        """Return in how many of ``steps`` a number must move to stay changed; more than that: it cannot.

        If one picture is in more than a quarter of the batches, all steps must move the number, which then takes fewer
        than :data:`PICTURES` pictures.
        """
        return max(math.ceil(steps / 2), PICTURES * self.examples, min(PICTURES * self.pictures, steps))


def most_batches(plan: Iterable[Sequence[int]], contents: Sequence[Iterable[Hashable]]) -> int:
    """Return in how many batches the most frequent content is.

    Args:
        plan: the examples of each batch, by index.
        contents: of each example, such as its pictures.
    """
    counts = Counter(content for batch in plan for content in {each for index in batch for each in contents[index]})
    return max(counts.values(), default=0)


@dataclass(slots=True)
class _Leaving:
    """A parameter that leaves: its received value, how often each number moved, and its steps."""

    received: Tensor
    moved: Tensor
    steps: int = 0


class GuardedAdamW(torch.optim.AdamW):
    """AdamW with these protections, for one round.

    Args:
        parameters: as of :class:`torch.optim.AdamW`, like the other arguments.
        guard: names the parameters among them that leave the client; the others take plain steps.
    """

    def __init__(
        self,
        parameters: ParamsT,
        guard: Guard,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fused: bool | None = None,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, fused=fused)
        self.guard = guard
        self._leaving: dict[Tensor, _Leaving | None] = dict.fromkeys(guard.leaving)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step; gradients of what leaves become their signs in place."""
        for parameter, state in self._leaving.items():
            if parameter.grad is None:
                continue
            if state is None:
                received = parameter.detach().clone()
                state = self._leaving[parameter] = _Leaving(received, torch.zeros_like(received, dtype=torch.int32))
            # In place, since recorded passes write to this tensor. 0 · NaN and 0 · ∞ are NaN, so both stay visible.
            parameter.grad.copy_(parameter.grad.sign().add_(0 * parameter.grad))
            state.moved += parameter.grad != 0
            state.steps += 1
        return super().step(closure)

    @property
    def fewest_steps(self) -> int:
        """Fewest steps of a parameter that leaves and had a gradient."""
        return min((state.steps for state in self._leaving.values() if state), default=0)

    @torch.no_grad()
    def finish(self) -> float:
        """Give numbers that moved in too few steps their received value back.

        Returns:
            The share of numbers with a gradient that did not stay changed, between 0 and 1.
        """
        moved = returned = 0
        for parameter, state in self._leaving.items():
            if state is None:
                continue
            too_few = state.moved < self.guard.needs(state.steps)
            parameter.copy_(torch.where(too_few, state.received, parameter))
            moved += int((state.moved > 0).sum())
            returned += int(((state.moved > 0) & too_few).sum())
        return returned / moved if moved else 0.0
