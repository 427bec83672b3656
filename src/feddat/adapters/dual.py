"""The global, local and anchor adapter of a client over one frozen model, and the routes through them.

FedDAT's Dual-Adapter Teacher (Chen et al., AAAI 2024, arXiv 2308.12305): the global adapter travels, the local one
never does, the anchor is a frozen copy of the global one received at the start of a round. What trains never changes;
only the routing does.

| adapter | trains | travels |
| --- | --- | --- |
| ``global`` | yes | yes |
| ``local`` | yes | no |
| ``anchor`` | no | no |
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from feddat.adapters.bottleneck import BottleneckConfig, BottleneckLayer
from feddat.adapters.peft_internals import Site, Switch, collect_sites, freeze_for_good, named_weights

ADAPTERS = ("global", "local", "anchor")
TRAINED = ("global", "local")
# Route -> weight of each adapter on it.
ROUTES: dict[str, dict[str, float]] = {
    "global": {"global": 1.0},
    "local": {"local": 1.0},
    "dat": {"local": 0.5, "anchor": 0.5},
    "none": {},
}


class DualAdapters:
    """Three adapters over one model, with bottleneck or stock LoRA layers.

    Routes change what the next forward pass adds, never ``requires_grad``: graphs of several routes can be alive at
    once, and one backward pass over all of them gives each adapter its gradient. Under gradient checkpointing the
    forward is computed again during backward, on whatever route is open then: keep the route until backward is done.
    Do not use PEFT's ``set_adapter`` or ``disable_adapter`` on :attr:`peft_model`: they change what trains.

    Args:
        model: the base model; its modules are wrapped in place and its parameters frozen.
        config: a :class:`BottleneckConfig`, or a ``LoraConfig`` that adapts linear layers only.

    Attributes:
        peft_model: the wrapping ``PeftModel``.

    Raises:
        ValueError: the configuration holds something that routes cannot weigh or states would not hold, or PEFT finds
            no site.
    """

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        _check_config(config)
        if isinstance(model, PeftModel):
            raise ValueError("the model is wrapped by PEFT already: pass its base model")
        # PEFT writes into configurations, hence a copy for each adapter.
        first, *others = ADAPTERS
        self.peft_model: PeftModel = get_peft_model(model, copy.deepcopy(config), adapter_name=first)
        for name in others:
            self.peft_model.add_adapter(name, copy.deepcopy(config))
        self._sites = collect_sites(self.peft_model)
        self._weights = {name: self._collect(name) for name in ADAPTERS}
        for name in TRAINED:
            for parameter in self._weights[name].values():
                parameter.requires_grad_(True)
        freeze_for_good(self._sites, "anchor")
        self._switches = {route: Switch(self._sites, weights) for route, weights in ROUTES.items()}
        self.refresh_anchor()
        self.route("global")

    def route(self, name: str) -> None:
        """Send the following forward passes through ``global``, ``local``, ``dat`` (½ local + ½ anchor) or ``none``.

        Raises:
            ValueError: there is no such route.
        """
        switch = self._switches.get(name)
        if switch is None:
            raise ValueError(f"unknown route {name!r}; routes are {', '.join(ROUTES)}")
        switch.apply()

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of one adapter, in a fixed order.

        Raises:
            ValueError: there is no such adapter.
        """
        return list(self._named(name).values())

    def refresh_anchor(self) -> None:
        """Copy the global adapter into the anchor."""
        self._copy("anchor", {key: weight.detach() for key, weight in self._weights["global"].items()})

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Draw one adapter's weights anew from a CPU generator; the same on every device.

        Bottleneck: N(0, init_std²), biases 0. LoRA: A uniform in ±1/√fan-in as in PEFT, B and biases 0.

        Raises:
            ValueError: there is no such adapter.
        """
        self._named(adapter)
        for site in self._sites:
            if isinstance(site.layer, BottleneckLayer):
                site.layer.reset_adapter(adapter, generator)
            else:
                _reset_lora(site, adapter, generator)

    def shared_state(self) -> dict[str, Tensor]:
        """Return the global adapter: CPU copies by names without the adapter's, in module order."""
        return dict(self._export("global"))

    def load_shared(self, state: Mapping[str, Tensor]) -> None:
        """Copy a :meth:`shared_state` into the global adapter; the anchor is left alone.

        Raises:
            ValueError: a key is missing or unexpected, or a shape differs. Nothing is loaded then.
        """
        _check_state("shared state", state, self._weights["global"])
        self._copy("global", state)

    def personal_state(self) -> dict[str, Tensor]:
        """Return the local adapter and the anchor: CPU copies named ``local.KEY`` and ``anchor.KEY``."""
        return {f"{name}.{key}": value for name in ("local", "anchor") for key, value in self._export(name)}

    def load_personal(self, state: Mapping[str, Tensor]) -> None:
        """Copy a :meth:`personal_state` into the local adapter and the anchor.

        Raises:
            ValueError: a key is missing or unexpected, or a shape differs. Nothing is loaded then.
        """
        expected = {
            f"{name}.{key}": weight for name in ("local", "anchor") for key, weight in self._weights[name].items()
        }
        _check_state("personal state", state, expected)
        for name in ("local", "anchor"):
            self._copy(name, {key: state[f"{name}.{key}"] for key in self._weights[name]})

    def _collect(self, adapter: str) -> dict[str, nn.Parameter]:
        return {key: weight for site in self._sites for key, weight in named_weights(site, adapter)}

    def _named(self, adapter: str) -> dict[str, nn.Parameter]:
        weights = self._weights.get(adapter)
        if weights is None:
            raise ValueError(f"unknown adapter {adapter!r}; adapters are {', '.join(ADAPTERS)}")
        return weights

    def _export(self, adapter: str) -> Iterator[tuple[str, Tensor]]:
        for key, weight in self._weights[adapter].items():
            yield key, weight.detach().to("cpu", copy=True)

    @torch.no_grad()
    def _copy(self, adapter: str, state: Mapping[str, Tensor]) -> None:
        for key, weight in self._weights[adapter].items():
            weight.copy_(state[key])


def _check_config(config: PeftConfig) -> None:
    if isinstance(config, BottleneckConfig):
        return
    if type(config) is not LoraConfig:
        raise ValueError(f"dual adapters need a BottleneckConfig or a LoraConfig, not {type(config).__name__}")
    # DoRA is not linear in its scale; biases and saved modules would be shared by all three adapters.
    for option, neutral in (("use_dora", False), ("bias", "none"), ("modules_to_save", None)):
        if getattr(config, option) != neutral:
            raise ValueError(f"LoRA option {option}={getattr(config, option)!r} cannot be used with dual adapters")


def _reset_lora(site: Site, adapter: str, generator: torch.Generator) -> None:
    for key, weight in named_weights(site, adapter):
        if key.endswith(".lora_A.weight"):
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.copy_(drawn)
        else:
            weight.zero_()


def _check_state(label: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key, weight in expected.items():
        if key not in state:
            raise ValueError(f"{label}: key {key!r} of shape {tuple(weight.shape)} is missing")
        value = state[key]
        if value.shape != weight.shape:
            raise ValueError(
                f"{label}: key {key!r} has shape {tuple(value.shape)}, this model expects {tuple(weight.shape)}"
            )
        if not value.is_floating_point():
            raise ValueError(f"{label}: key {key!r} has dtype {value.dtype}, expected floating point")
    for key, value in state.items():
        if key not in expected:
            raise ValueError(f"{label}: unexpected key {key!r} of shape {tuple(value.shape)}")
