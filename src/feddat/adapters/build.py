"""Build adapters on a model from plain settings, and count their parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from peft import LoraConfig, PeftConfig
from torch import nn

from feddat.adapters.base import ADAPTERS, Adapters
from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.dual import DualAdapters
from feddat.adapters.prompts import SoftPrompts
from feddat.adapters.replaced import ReplacedWeights
from feddat.adapters.sites import DEFAULT_SITES, PARTS, check_sites, default_sites, depths, in_last_layers
from feddat.adapters.whole import whole_modules
from feddat.kinds import KINDS

#: Kinds that are PEFT tuners -> function that makes the configuration from an expression for sites and the settings.
TUNERS: dict[str, Callable[[str, Mapping[str, Any]], PeftConfig]] = {
    "bottleneck": lambda sites, settings: BottleneckConfig(target_modules=sites, reduction=settings["reduction"]),
    "lora": lambda sites, settings: LoraConfig(target_modules=sites, r=settings["rank"], lora_alpha=settings["alpha"]),
}


def build_adapters(
    model: nn.Module,
    *,
    peft: str = "bottleneck",
    reduction: int = 16,
    rank: int = 16,
    alpha: int = 16,
    prompt_tokens: int = 5,
    sites: str | None = None,
    parts: Sequence[str] = PARTS[:1],
    layers: int | None = None,
) -> Adapters:
    """Put global, local and anchor adapters on ``model``, which is changed in place and frozen.

    Args:
        model: a transformers model (or any module, if ``sites`` are given or the kind needs none), on its device.
        peft: kind of adapter, see :data:`feddat.kinds.KINDS`.
        reduction: bottleneck: the inner width is the site's width / reduction.
        rank: LoRA: the rank.
        alpha: LoRA: the scale is alpha / rank. The adapted projections keep their pretrained weights.
        prompt_tokens: prompt: tokens at each input.
        sites: bottleneck and LoRA: regular expression for full module names; default: by model type, see
            :mod:`feddat.adapters.sites` (LoRA: query and value projections).
        parts: bottleneck and LoRA: the :data:`feddat.adapters.sites.PARTS` that get the default sites.
        layers: bottleneck and LoRA: use only the sites in this many last layers of each tower.

    Raises:
        ValueError: the kind is unknown, a setting is out of range, or the model has no default sites; ``sites`` match
            nothing or what cannot have adapters (:func:`.sites.check_sites`), are given for a kind without a choice of
            sites, or are given together with ``parts``; the model has fewer ``layers`` or lacks a part; or it has a
            module that must train whole, and the kind does not train it.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    whole = DEFAULT_SITES[model_type].whole if model_type in DEFAULT_SITES else None
    if peft not in KINDS:
        raise ValueError(f"unknown kind of adapter {peft!r}; kinds are {', '.join(KINDS)}")
    given = {"sites": sites is not None, "parts": tuple(parts) != PARTS[:1], "layers": layers is not None}
    chosen = next((name for name, is_given in given.items() if is_given), None)
    if sites is not None and tuple(parts) != PARTS[:1]:
        raise ValueError("sites and parts both choose where adapters go; give only one of them")
    if peft in TUNERS:
        if sites is None:  # tuners of this package use the sites of bottlenecks
            found = default_sites(model_type, parts)
            sites = found.lora if peft == "lora" else found.bottleneck
        else:
            check_sites(model, sites, peft)
        settings = {"reduction": reduction, "rank": rank, "alpha": alpha}
        return DualAdapters(model, TUNERS[peft](_targets(model, sites, layers), settings), whole)
    if chosen is not None:
        raise ValueError(f"{chosen}: cannot be chosen for adapters of kind {peft!r}; remove the setting")
    if peft != "full" and (names := whole_modules(model, whole)):
        raise ValueError(f"kind {peft!r} does not train {', '.join(names)}; use bottleneck, lora or full")
    if peft == "prompt":
        site = default_sites(model_type).prompt
        if site is None:
            raise ValueError(f"soft prompts need a model that reads text, but {model_type!r} does not")
        return SoftPrompts(model, site, prompt_tokens)
    return ReplacedWeights(model, peft)


def _targets(model: nn.Module, sites: str, layers: int | None) -> str:
    """Return an expression for the sites in the last ``layers``; without ``layers``, the given expression."""
    if layers is None:
        return sites
    if layers < 1:
        raise ValueError(f"layers: expected at least 1, got {layers}")
    names = [name for name, _ in model.named_modules() if re.fullmatch(sites, name)]
    deepest = max(depths(names).values(), default=0)
    if layers > deepest:
        raise ValueError(f"layers: {layers}, but the model has sites for adapters in only {deepest} layers")
    return "|".join(re.escape(name) for name in in_last_layers(names, layers))


def count_parameters(
    adapters: Adapters,
    *,
    trains: Collection[str],
    trains_key: Callable[[str], bool] = lambda key: True,
    shares: Callable[[str], bool] | None = None,
    head: nn.Module | None = None,
) -> dict[str, int]:
    """Count one client's parameters; afterwards the global route is open.

    Args:
        adapters: the model and its adapters.
        trains: adapters that the method trains, a subset of ``global`` and ``local``.
        trains_key: whether an entry of these adapters trains.
        shares: whether an entry of the global adapter travels; ``None``: no entry does.
        head: the personal task heads, to count them too.

    Returns:
        ``total``: backbone, adapters of the method and heads, without weights that trained ones replace.
        ``trainable``: trained parameters. ``communicated``: parameters of the global adapter that travel. The anchor is
        a copy and is not counted.
    """

    def size(parameters: Iterable[nn.Parameter]) -> int:
        return sum(_count(parameter) for parameter in parameters)

    inserted = {id(parameter) for name in ADAPTERS for parameter in adapters.parameters(name)}
    # Some kinds replace weights of the backbone on this route; the replaced weights are not counted.
    adapters.route("global" if trains else "none")
    backbone = size(parameter for parameter in adapters.model.parameters() if id(parameter) not in inserted)
    adapters.route("global")
    heads = size(head.parameters()) if head is not None else 0
    moving = size(p for p in head.parameters() if p.requires_grad) if head is not None else 0
    return {
        "total": backbone + sum(size(adapters.parameters(name)) for name in trains) + heads,
        "trainable": sum(size(p for key, p in adapters.named(n).items() if trains_key(key)) for n in trains) + moving,
        "communicated": size(p for key, p in adapters.named("global").items() if shares is not None and shares(key)),
    }


def _count(parameter: nn.Parameter) -> int:
    """Return the number of weights in a parameter; bitsandbytes packs two 4-bit weights into one element."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else math.prod(packed.shape)
