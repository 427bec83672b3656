"""All uses of PEFT beyond its public interface (peft >=0.21,<0.22). No other module touches these parts.

There are two. This package's tuners are entered into PEFT's tables. And routes are switched directly on the tuner
layers, because PEFT's own ``set_adapter`` also flips ``requires_grad``, which silently drops gradients of existing
graphs. (The tuner in ``bottleneck/`` overrides only the methods that PEFT asks tuners to override.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftConfig, PeftModel
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn


def register_tuner(peft_type: str, config_class: type[PeftConfig], tuner_class: type[BaseTuner]) -> None:
    """Register a tuner with PEFT under a name outside its closed enumeration; repeated calls are harmless."""
    key: Any = peft_type  # PEFT looks plain strings up in tables keyed by its string enumeration
    PEFT_TYPE_TO_CONFIG_MAPPING[key] = config_class
    PEFT_TYPE_TO_TUNER_MAPPING[key] = tuner_class
    PEFT_TYPE_TO_PREFIX_MAPPING[key] = tuner_class.prefix


def tuner_prefix(config: PeftConfig) -> str:
    """Return the prefix of the names of a tuner's parameters in the modules that own them."""
    key: Any = config.peft_type
    return PEFT_TYPE_TO_PREFIX_MAPPING[key]


def layer_class(config: PeftConfig) -> type[Any]:
    """Return the class of the layers in which a configuration's tuner wraps its sites."""
    key: Any = config.peft_type
    tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[key]
    found: type[Any] = tuner.tuner_layer_cls
    return found


@dataclass(frozen=True, slots=True)
class Site:
    """One tuner layer, with its name in the base model and its adapters' scales at weight 1."""

    name: str
    layer: Any  # a BaseTunerLayer with `scaling`, which the base class does not declare
    scaling: dict[str, float]


def collect_sites(peft_model: PeftModel) -> list[Site]:
    """Return the tuner layers in module order.

    Raises:
        ValueError: a layer has no scale per adapter, so weighted routes are impossible.
    """
    sites = []
    for name, module in peft_model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            scaling = getattr(module, "scaling", None)
            if not isinstance(scaling, dict):
                raise ValueError(f"{type(module).__name__} at {name}: has no scale per adapter, which routes need")
            sites.append(Site(name, module, dict(scaling)))
    return sites


def named_weights(site: Site, adapter: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield one adapter's parameters at a site, under names without the adapter's name.

    Raises:
        ValueError: the site's adapters are bare parameters (LoRA on embeddings).
    """
    for container_name in site.layer.adapter_layer_names:
        container = getattr(site.layer, container_name)
        if adapter not in container:
            continue
        if not isinstance(container[adapter], nn.Module):
            raise ValueError(f"{site.name}: adapters on embeddings are not supported; choose linear layers")
        for name, parameter in container[adapter].named_parameters():
            yield f"{site.name}.{container_name}.{name}", parameter


def freeze_for_good(sites: Sequence[Site], adapter: str) -> None:
    """Freeze an adapter so that PEFT's own switching never makes it trainable."""
    for site in sites:
        names = {**site.layer.frozen_peft_weight_names, adapter: site.layer.adapter_layer_names}
        site.layer.frozen_peft_weight_names = names
        for _, parameter in named_weights(site, adapter):
            parameter.requires_grad_(False)


class Switch:
    """One route: its active adapters and their weights; without weights, adapters are off.

    Named routes are prepared once, so :meth:`apply` takes only a few microseconds per site. A weight can be a tensor
    that broadcasts over the site's output, because all kinds of layer only multiply by the scale.
    """

    def __init__(self, sites: Sequence[Site], weights: Mapping[str, float | Tensor]) -> None:
        self._active = list(weights)
        # The scale of every adapter is set so that no weight of an earlier route remains.
        self._plan = [
            (site.layer, {name: base * weights.get(name, 1.0) for name, base in site.scaling.items()}) for site in sites
        ]

    def apply(self) -> None:
        """Switch every site to this route without changing ``requires_grad``."""
        active = self._active
        for layer, scaling in self._plan:
            layer.scaling.update(scaling)
            layer._disable_adapters = not active
            if active:
                layer._active_adapter = active
