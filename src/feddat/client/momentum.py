"""Momentum distillation: a model that writes answers learns from a slow copy of itself and from the annotated answers.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021
(arXiv 2107.07651), section 3.4; here only for the trained parts, adapters and heads. With momentum m and weight a,

    copy ← m · copy + (1 − m) · model                                      once per batch, before it is used
    loss of a token = (1 − a) · (−log p(token)) + a · Σ_v q(v) · (−log p(v))          q: the copy's prediction

As published, the copy starts equal to the model. ``a`` rises from 0 over a client's first round (in the paper, over the
first epoch).

Every route has its own copy: the same route through the averages of the adapters and the head that it trains. In
FedDAT, the global route learns from the average of the global adapter. The DAT route learns from the average of the
local adapter together with the unaveraged anchor. Mutual distillation still connects the two routes themselves.

The averages are personal: they stay in the client's store from round to round and never travel. The average of the
global adapter treats an update from the server like any other step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MomentumCopy:
    """Moving averages of parameters, which can temporarily replace them.

    Args:
        trained: parameters by name.
        decay: the momentum m, in [0, 1).
        averages: averages from :meth:`state`; if empty, the averages start as the current parameters.

    Raises:
        ValueError: the names or shapes of ``averages`` do not match those of ``trained``.
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
        """Use the averages in place of the parameters inside the block, without building a graph."""
        own = {name: parameter.data for name, parameter in self._trained.items()}
        try:
            # The data are swapped, not overwritten: graphs that still await their backward pass keep their weights.
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
    """Return the weight of the copy's predictions at ``step`` (0-based) of ``steps``; it rises in the first round."""
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
