"""The base of every kind of adapter: three sets of parameters over one frozen model, and routes through them.

FedDAT's Dual-Adapter Teacher (Chen et al., AAAI 2024, arXiv 2308.12305) needs three adapters. The global adapter
travels, the local adapter never does, and the anchor is a frozen copy of the global adapter received at the start of a
round. Other methods use only the adapters that they need.

| adapter | can be trained | can travel |
| --- | --- | --- |
| ``global`` | yes | yes |
| ``local`` | yes | no |
| ``anchor`` | no | no |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from feddat.adapters.peft_form import PeftForm

ADAPTERS = ("global", "local", "anchor")
TRAINED = ("global", "local")
#: Named routes: route -> weight of each adapter on it.
ROUTES: dict[str, dict[str, float]] = {
    "global": {"global": 1.0},
    "local": {"local": 1.0},
    "anchor": {"anchor": 1.0},
    "dat": {"local": 0.5, "anchor": 0.5},
    "sum": {"local": 1.0, "global": 1.0},
    "none": {},
}

#: An adapter's weight in a sum, and its state.
Part: TypeAlias = tuple[float, Mapping[str, Tensor]]
#: A route's name, or the weight of each adapter on it. A weight is a number, or a tensor that broadcasts over the
#: outputs of every site, (N, L, d): 0-dimensional, or (N, 1, 1) for a weight per row of the batch. Gradients flow into
#: the tensor.
Route: TypeAlias = str | Mapping[str, float | Tensor]


class Adapters(ABC):
    """The global, local and anchor adapter of a client over one model.

    Routes change what the next forward pass adds, but never ``requires_grad``. The graphs of several routes can be
    alive at the same time, and one backward pass over all of them gives each adapter its gradient. Gradient
    checkpointing computes the forward pass again during backward, on the route that is open then;
    :mod:`feddat.adapters.checkpointing` opens the right route for it.

    A state is a dictionary of one adapter's tensors, in module order. Its names do not contain the adapter's name; all
    three adapters have the same names and shapes.

    Args:
        model: the model with the adapters in it.
        weights: adapter -> name in its state -> parameter.

    Attributes:
        model: the model with the adapters in it.
        opened: the route that was opened last.
    """

    opened: Route = "global"

    def __init__(self, model: nn.Module, weights: Mapping[str, Mapping[str, nn.Parameter]]) -> None:
        self.model = model
        self._weights = {name: dict(weights[name]) for name in ADAPTERS}

    @property
    @abstractmethod
    def changed(self) -> list[nn.Module]:
        """The modules of :attr:`model` that routes change; everything before them is the same on every route."""

    @abstractmethod
    def route(self, route: Route) -> None:
        """Open one of :data:`ROUTES`, or the given weights of adapters, for the following forward passes.

        Raises:
            ValueError: there is no such route or adapter, or adapters of this kind can neither be mixed nor scaled.
        """

    @abstractmethod
    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Reset one adapter to its initial values, drawn from a CPU generator and the same on every device.

        Raises:
            ValueError: there is no such adapter.
        """

    @property
    def sites(self) -> list[str]:
        """Names of the modules at which an adapter has parameters, in module order."""
        return list(dict.fromkeys(key.rpartition(".")[0] or key for key in self.named("global")))

    def named(self, adapter: str) -> Mapping[str, nn.Parameter]:
        """Return one adapter's own parameters (not copies), by the names in its state.

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
        """Return CPU copies of one adapter's tensors.

        Raises:
            ValueError: there is no such adapter.
        """
        return {key: weight.detach().to("cpu", copy=True) for key, weight in self.named(adapter).items()}

    @torch.no_grad()
    def load(self, adapter: str, state: Mapping[str, Tensor]) -> None:
        """Copy a :meth:`state` into an adapter, in place; the other adapters stay unchanged.

        Raises:
            ValueError: there is no such adapter, a key is missing or unexpected, or a shape differs; nothing is loaded.
        """
        weights = self.named(adapter)
        check_state(adapter, state, weights)
        for key, weight in weights.items():
            weight.copy_(state[key])

    def shift(self, products: Mapping[str, Tensor]) -> None:
        """Set the frozen weights below the adapters to the pretrained values plus additions at some sites.

        Only LoRA's sites have a single frozen weight to shift; other kinds accept only an empty mapping.

        Args:
            products: site -> the product (out, in) to add, times LoRA's scale, to its weight; the other sites keep the
                pretrained weight.

        Raises:
            ValueError: the adapters have no such site.
        """
        if products:
            raise ValueError(f"no frozen weight to shift below {next(iter(products))!r}: these are not LoRA adapters")

    def peft_form(self) -> PeftForm | None:
        """Return PEFT's form of an adapter of this kind, or ``None`` if PEFT has no form for the trained parameters."""
        return None

    def combined(self, parts: Sequence[Part]) -> tuple[PeftForm | None, dict[str, Tensor]]:
        """Return the form and the state of one adapter that is the weighted sum of several.

        A single adapter of weight 1 is returned unchanged.

        Args:
            parts: weights and states. A state can leave out modules that train whole (:mod:`feddat.adapters.whole`).

        Raises:
            ValueError: adapters of this kind cannot be added up or scaled.
        """
        ((weight, state), *others) = parts
        if others or weight != 1.0:
            raise ValueError("adapters of this kind can neither be mixed nor scaled")
        return self.peft_form(), dict(state)


def check_route(route: Route) -> Mapping[str, float | Tensor]:
    """Return the weight of each adapter on a route.

    Raises:
        ValueError: there is no such route or adapter.
    """
    if isinstance(route, str):
        if route not in ROUTES:
            raise ValueError(f"unknown route {route!r}; routes are {', '.join(ROUTES)}")
        return ROUTES[route]
    for adapter in route:
        check_adapter(adapter)
    return route


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


def check_adapter(adapter: str) -> None:
    """Check that an adapter exists.

    Raises:
        ValueError: there is no such adapter.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"unknown adapter {adapter!r}; adapters are {', '.join(ADAPTERS)}")


def check_state(adapter: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a state has the keys and shapes of ``expected`` and floating-point values.

    Raises:
        ValueError: it has not; the message names the adapter, the key and the expected value.
    """
    for key, weight in expected.items():
        if key not in state:
            raise ValueError(f"{adapter} adapter: key {key!r} of shape {tuple(weight.shape)} is missing")
        value = state[key]
        if value.shape != weight.shape:
            raise ValueError(
                f"{adapter} adapter: key {key!r} has shape {tuple(value.shape)}, "
                f"this model expects {tuple(weight.shape)}"
            )
        if not value.is_floating_point():
            raise ValueError(f"{adapter} adapter: key {key!r} has dtype {value.dtype}, expected floating point")
    for key, value in state.items():
        if key not in expected:
            raise ValueError(f"{adapter} adapter: unexpected key {key!r} of shape {tuple(value.shape)}")
