"""Momentum distillation: written answers learn from a slow copy of the model as well as from the annotated answers.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021
(arXiv 2107.07651), section 3.4, here of what trains alone: adapters and heads. With momentum m and weight a,

    copy ← m · copy + (1 − m) · model                                      once per batch, before it is used
    loss of a token = (1 − a) · (−log p(token)) + a · Σ_v q(v) · (−log p(v))          q: the copy's prediction

As published, the copy starts as the model, and ``a`` rises from 0 over a client's first round (there: the first epoch).

Every route has a copy of its own: the same route through the averages of the adapters and the head that it trains. In
FedDAT the global route thus learns from the average of the global adapter, and the DAT route from that of the local one
beside the anchor as it is; mutual distillation goes on between the two routes themselves. The averages are personal:
they stay in the client's store from round to round and never travel. That of the global adapter goes on through the
server's updates, as through any other step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MomentumCopy:
    """Moving averages of parameters, which take their place for a while.

    Args:
        trained: parameters by name.
        decay: m, of [0, 1).
        averages: as :meth:`state` gave them; empty: the parameters as they are.

    Raises:
        ValueError: the names or shapes of ``averages`` are not those of ``trained``.
    """

    def __init__(
        self, trained: Mapping[str, nn.Parameter], decay: float, averages: Mapping[str, Tensor] | None = None
    ) -> None:
        self._trained = dict(trained)
        self._decay = decay
        self._averages = {name: parameter.detach().clone() for name, parameter in trained.items()}
        if averages:
            _check(averages, self._averages)
            for name, average in self._averages.items():
                average.copy_(averages[name])

    @torch.no_grad()
    def follow(self) -> None:
        """Move every average by 1 − m towards its parameter."""
        for name, parameter in self._trained.items():
            self._averages[name].lerp_(parameter, 1.0 - self._decay)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Let forward passes use the averages in place of the parameters; no graph is built meanwhile."""
        own = {name: parameter.data for name, parameter in self._trained.items()}
        try:
            # The data are exchanged, not written: graphs that wait for their backward pass find their weights again.
            for name, parameter in self._trained.items():
                parameter.data = self._averages[name]
            with torch.no_grad():
                yield
        finally:
            for name, parameter in self._trained.items():
                parameter.data = own[name]

    def state(self) -> dict[str, Tensor]:
        """Return CPU copies of the averages by name."""
        return {name: average.to("cpu", copy=True) for name, average in self._averages.items()}


def rising(alpha: float, step: int, steps: int, first: bool) -> float:
    """Return the weight of the copy's predictions at ``step`` (0-based) of ``steps``: in the first round, it rises."""
    return alpha * step / steps if first else alpha


def _check(averages: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name in sorted(averages.keys() | expected.keys()):
        if name not in expected or name not in averages:
            raise ValueError(f"momentum copy: {name!r} is {'unexpected' if name in averages else 'missing'}")
        if averages[name].shape != expected[name].shape:
            raise ValueError(
                f"momentum copy: {name!r} has shape {tuple(averages[name].shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
