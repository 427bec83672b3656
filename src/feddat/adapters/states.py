"""Common base of all kinds of adapter: three sets of named parameters that can be copied, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from feddat.adapters.base import ADAPTERS, Part, Route, check_adapter, check_route, check_state
from feddat.adapters.peft_form import PeftForm


class AdapterStates:
    """The parameters of the global, local and anchor adapter, under the same keys in the same order.

    Args:
        weights: adapter -> key -> parameter.

    Attributes:
        opened: the route that was opened last.
    """

    opened: Route = "global"

    def __init__(self, weights: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        self._weights = {name: dict(weights[name]) for name in ADAPTERS}

    @property
    def sites(self) -> list[str]:
        """The names of the modules at which an adapter has parameters, in module order."""
        return list(dict.fromkeys(key.rpartition(".")[0] or key for key in self.named("global")))

    def named(self, adapter: str) -> Mapping[str, nn.Parameter]:
        """Return one adapter's own parameters (not copies), in module order.

        Raises:
            ValueError: there is no such adapter.
        """
        check_adapter(adapter)
        return self._weights[adapter]

    def parameters(self, adapter: str) -> list[nn.Parameter]:
        """Return the values of :meth:`named`."""
        return list(self.named(adapter).values())

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Copy one adapter into another.

        Raises:
            ValueError: there is no such adapter.
        """
        for own, other in zip(self.parameters(target), self.parameters(source), strict=True):
            own.copy_(other)

    def refresh_anchor(self) -> None:
        """Copy the global adapter into the anchor."""
        self.copy("global", "anchor")

    def state(self, adapter: str) -> dict[str, Tensor]:
        """Return CPU copies of one adapter's tensors, in module order, by names without the adapter's name.

        Raises:
            ValueError: there is no such adapter.
        """
        return {key: weight.detach().to("cpu", copy=True) for key, weight in self.named(adapter).items()}

    @torch.no_grad()
    def load(self, adapter: str, state: Mapping[str, Tensor]) -> None:
        """Copy a :meth:`state` into an adapter; the other adapters stay unchanged.

        Raises:
            ValueError: there is no such adapter, a key is missing or unexpected, or a shape differs; nothing is loaded.
        """
        weights = self.named(adapter)
        check_state(adapter, state, weights)
        for key, weight in weights.items():
            weight.copy_(state[key])

    def shift(self, products: Mapping[str, Tensor]) -> None:
        """Accept only an empty mapping, because only LoRA's sites have a single frozen weight to shift.

        Raises:
            ValueError: ``products`` is not empty.
        """
        if products:
            raise ValueError(f"no frozen weight to shift below {next(iter(products))!r}: these are not LoRA adapters")

    def peft_form(self) -> PeftForm | None:
        """Return ``None``: PEFT has no form for the trained parameters."""
        return None

    def combined(self, parts: Sequence[Part]) -> tuple[PeftForm | None, dict[str, Tensor]]:
        """Return the form and the state of a single adapter of weight 1; this kind cannot add up adapters.

        Raises:
            ValueError: there are several adapters, or its weight is not 1.
        """
        ((weight, state), *others) = parts
        if others or weight != 1.0:
            raise ValueError("adapters of this kind can neither be mixed nor scaled")
        return self.peft_form(), dict(state)


def single_adapter(route: Route, kind: str) -> str | None:
    """Return the only adapter on a route, or ``None`` without one, for kinds that cannot add up adapters.

    Raises:
        ValueError: there is no such route or adapter, or the route mixes or scales adapters.
    """
    weights = check_route(route)
    if not weights:
        return None
    (adapter, weight), *others = weights.items()
    if others or isinstance(weight, Tensor) or weight != 1.0:
        raise ValueError(f"route {route!r}: adapters of kind {kind!r} can neither be mixed nor scaled")
    return adapter
