"""The global, local and anchor adapter of a client as PEFT adapters: stock LoRA, or a tuner of this package.

Only the routing changes, never the set of trained parameters. The layers of this package's tuners have ``scaling`` (the
weight of each adapter) and ``reset_adapter(name, generator)``. They set ``sums_weights = True`` if a weighted sum of
adapters equals the adapter with the weighted sum of their weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from feddat.adapters.base import ADAPTERS, ROUTES, TRAINED, Adapters, Part, Route, check_adapter, check_route
from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.combine import add_bottlenecks, add_lora
from feddat.adapters.peft_form import PREFIX, PeftForm
from feddat.adapters.peft_internals import (
    Site,
    Switch,
    collect_sites,
    freeze_for_good,
    layer_class,
    named_weights,
)
from feddat.adapters.sites import matching
from feddat.adapters.whole import WholeModule, put_whole_modules


class DualAdapters(Adapters):
    """Three adapters over one model, in the layers of one PEFT tuner.

    Do not use PEFT's ``set_adapter`` or ``disable_adapter`` on :attr:`peft_model`: they change which parameters train.

    Args:
        model: the base model; its modules are wrapped in place and its parameters frozen.
        config: the configuration of a tuner of this package, or a ``LoraConfig`` that adapts only linear layers.
        whole: regular expression for the full names of modules that train whole (:mod:`feddat.adapters.whole`).

    Attributes:
        peft_model: the wrapping ``PeftModel``, the same object as :attr:`model`.

    Raises:
        ValueError: the configuration has an option that routes cannot weigh or states cannot hold, or PEFT finds no
            site.
    """

    def __init__(self, model: nn.Module, config: PeftConfig, whole: str | None = None) -> None:
        _check_config(config)
        if isinstance(model, PeftModel):
            raise ValueError("the model is already wrapped by PEFT; pass its base model")
        names = [name for name, _ in model.named_modules()]
        # PEFT writes into configurations, so each adapter gets a copy.
        self._config = cast(Any, copy.deepcopy(config))
        first, *others = ADAPTERS
        self.peft_model: PeftModel = get_peft_model(model, copy.deepcopy(config), adapter_name=first)
        _check_config(self.peft_model.peft_config[first])  # PEFT adds the head of a task
        for name in others:
            self.peft_model.add_adapter(name, copy.deepcopy(config))
        put_whole_modules(self.peft_model.get_base_model(), whole)
        self._sites = collect_sites(self.peft_model)
        # A stock model can have further modules that the given expression matches.
        self._config.target_modules = matching(names, [site.name for site in self._tuned()])
        super().__init__(self.peft_model, {name: self._collect(name) for name in ADAPTERS})
        for name in TRAINED:
            for parameter in self.parameters(name):
                parameter.requires_grad_(True)
        freeze_for_good(self._sites, "anchor")
        self._pretrained: dict[str, Tensor] = {}  # pretrained weights of shifted sites
        self._switches = {route: Switch(self._sites, weights) for route, weights in ROUTES.items()}
        self.refresh_anchor()
        self.route("global")

    @property
    def sites(self) -> list[str]:
        """The names of the wrapped modules in the base model, in module order."""
        return [site.name for site in self._sites]

    @property
    def changed(self) -> list[nn.Module]:
        """The sites."""
        return [site.layer for site in self._sites]

    def route(self, route: Route) -> None:
        """Open a named route, or the given weights of adapters, for the following forward passes.

        Raises:
            ValueError: there is no such route or adapter.
        """
        weights = check_route(route)
        switch = self._switches[route] if isinstance(route, str) else Switch(self._sites, weights)
        switch.apply()
        self.opened = route

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, adapter: str) -> None:
        """Draw one adapter's weights again from a CPU generator; the values are the same on every device.

        Bottleneck: N(0, init_std²), biases 0. LoRA: A uniform in ±1/√fan-in as in PEFT, B and biases 0. Modules that
        train whole: by their own ``reset``.

        Raises:
            ValueError: there is no such adapter.
        """
        check_adapter(adapter)
        for site in self._sites:
            if hasattr(site.layer, "reset_adapter"):
                site.layer.reset_adapter(adapter, generator)
            else:
                _reset_lora(site, adapter, generator)

    @torch.no_grad()
    def shift(self, products: Mapping[str, Tensor]) -> None:
        """Set the weights below LoRA's sites to the pretrained ones, plus scale · product for the given sites.

        Raises:
            ValueError: there is no such site, or it is not a LoRA site.
        """
        sites = {site.name: site for site in self._sites if not hasattr(site.layer, "reset_adapter")}
        super().shift({name: product for name, product in products.items() if name not in sites})
        for name in [*self._pretrained.keys() - products.keys()]:
            sites[name].layer.get_base_layer().weight.copy_(self._pretrained.pop(name))
        for name, product in products.items():
            weight = sites[name].layer.get_base_layer().weight
            pretrained = self._pretrained.setdefault(name, weight.clone())
            weight.copy_(pretrained + sites[name].scaling["global"] * product)

    def peft_form(self) -> PeftForm:
        """Return PEFT's form of an adapter; PEFT does not know its names for modules that train whole."""
        return PeftForm(self._config, {key: PREFIX + key for key in self.named("global")})

    def combined(self, parts: Sequence[Part]) -> tuple[PeftForm, dict[str, Tensor]]:
        """Return the form and the state of one adapter that is the weighted sum of several.

        Raises:
            ValueError: adapters of this kind cannot be added up.
        """
        if len(parts) == 1 and parts[0][0] == 1.0:
            return self.peft_form(), dict(parts[0][1])
        sites = self._tuned()
        config: PeftConfig
        if isinstance(self._config, BottleneckConfig):
            config, state = add_bottlenecks(self._config, [site.name for site in sites], parts)
        elif getattr(layer_class(self._config), "sums_weights", False):
            config = self._config
            state = {key: torch.stack([w * part[key] for w, part in parts]).sum(dim=0) for key in parts[0][1]}
        elif not isinstance(self._config, LoraConfig):
            raise ValueError(f"adapters of {type(self._config).__name__} cannot be added up")
        else:
            config, state = add_lora(self._config, {site.name: site.scaling["global"] for site in sites}, parts)
        return PeftForm(config, {key: PREFIX + key for key in state}), state

    def _tuned(self) -> list[Site]:
        """Return the sites in the tuner's layers, without modules that train whole."""
        return [site for site in self._sites if not isinstance(site.layer, WholeModule)]

    def _collect(self, adapter: str) -> dict[str, nn.Parameter]:
        return {key: weight for site in self._sites for key, weight in named_weights(site, adapter)}


def _check_config(config: PeftConfig) -> None:
    own = hasattr(layer_class(config), "reset_adapter")
    if not own and type(config) is not LoraConfig:
        raise ValueError(f"dual adapters need a tuner of this package or a LoraConfig, not {type(config).__name__}")
    # DoRA is not linear in its scale. All three adapters would share biases and saved modules.
    for option, neutral in (("use_dora", False), ("bias", "none"), ("modules_to_save", None)):
        if (value := getattr(config, option, neutral)) != neutral:
            raise ValueError(f"{option}={value!r} cannot be used with dual adapters")


def _reset_lora(site: Site, adapter: str, generator: torch.Generator) -> None:
    for key, weight in named_weights(site, adapter):
        if key.endswith(".lora_A.weight"):
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.copy_(drawn)
        else:
            weight.zero_()
