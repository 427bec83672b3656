"""From plain settings to adapters on a model, and what they cost in parameters."""

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
from feddat.adapters.sites import DEFAULT_SITES, PARTS, default_sites, depths, in_last_layers
from feddat.adapters.whole import whole_modules
from feddat.kinds import KINDS

#: Kinds that are PEFT tuners -> the configuration of one, from an expression for its sites and the settings by name.
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
        reduction: bottleneck: inner width is the site's width / reduction.
        rank: LoRA: rank.
        alpha: LoRA: scale is alpha / rank. The adapted projections keep their pretrained weights.
        prompt_tokens: prompt: tokens at each input.
        sites: bottleneck and LoRA: regular expression over whole module names; default: per model type, see
            :mod:`feddat.adapters.sites` (LoRA: query and value projections).
        parts: bottleneck and LoRA: which of :data:`feddat.adapters.sites.PARTS` have the default sites.
        layers: bottleneck and LoRA: of these sites, those in the last so many layers of each tower alone.

    Raises:
        ValueError: the kind is unknown, a setting is out of range, there are no default sites for the model, or
            ``sites`` match nothing or are given to a kind that has none to choose, or beside ``parts``, or there are
            fewer ``layers``, or the model lacks a part, or has a module that must train whole and with this kind would
            not.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    whole = DEFAULT_SITES[model_type].whole if model_type in DEFAULT_SITES else None
    if peft not in KINDS:
        raise ValueError(f"unknown kind of adapter {peft!r}; kinds are {', '.join(KINDS)}")
    given = {"sites": sites is not None, "parts": tuple(parts) != PARTS[:1], "layers": layers is not None}
    chosen = next((name for name, is_given in given.items() if is_given), None)
    if sites is not None and tuple(parts) != PARTS[:1]:
        raise ValueError("sites and parts both choose where adapters go; give one of them")
    if peft in TUNERS:
        if sites is None:  # a tuner of our own sits where bottlenecks do
            found = default_sites(model_type, parts)
            sites = found.lora if peft == "lora" else found.bottleneck
        settings = {"reduction": reduction, "rank": rank, "alpha": alpha}
        return DualAdapters(model, TUNERS[peft](_targets(model, sites, layers), settings), whole)
    if chosen is not None:
        raise ValueError(f"{chosen}: adapters of kind {peft!r} have none to choose")
    if peft != "full" and (names := whole_modules(model, whole)):
        raise ValueError(f"kind {peft!r} does not train {', '.join(names)}; use bottleneck, lora or full")
    if peft == "prompt":
        site = default_sites(model_type).prompt
        if site is None:
            raise ValueError(f"soft prompts need a model that reads text, and {model_type!r} does not")
        return SoftPrompts(model, site, prompt_tokens)
    return ReplacedWeights(model, peft)


def _targets(model: nn.Module, sites: str, layers: int | None) -> str:
    """Return the expression for the sites in the last layers; for all of them, the expression itself."""
    if layers is None:
        return sites
    if layers < 1:
        raise ValueError(f"layers: expected at least 1, got {layers}")
    names = [name for name, _ in model.named_modules() if re.fullmatch(sites, name)]
    deepest = max(depths(names).values(), default=0)
    if layers > deepest:
        raise ValueError(f"layers: {layers}, but the model has sites for adapters in {deepest}")
    return "|".join(re.escape(name) for name in in_last_layers(names, layers))


def count_parameters(
    adapters: Adapters,
    *,
    trains: Collection[str],
    trains_key: Callable[[str], bool] = lambda key: True,
    shares: Callable[[str], bool] | None = None,
    head: nn.Module | None = None,
) -> dict[str, int]:
    """Count one client's parameters; the global route is open afterwards.

    Args:
        adapters: the model and its adapters.
        trains: adapters that the method trains, of ``global`` and ``local``.
        trains_key: which entries of them train.
        shares: which entries of the global adapter travel; ``None``: none does.
        head: the personal task heads, if they are to be counted.

    Returns:
        ``total``: backbone, adapters of the method and heads, without weights that trained ones replace;
        ``trainable``: what trains; ``communicated``: what travels one way between a client and the server in one
        round. The anchor, a copy, is not counted.
    """

    def size(parameters: Iterable[nn.Parameter]) -> int:
        return sum(_count(parameter) for parameter in parameters)

    inserted = {id(parameter) for name in ADAPTERS for parameter in adapters.parameters(name)}
    # The backbone as the route leaves it: with the global values in place of some of its own, where a kind does that.
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
    """Return how many weights a parameter holds; bitsandbytes packs two of four bits into one element."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else math.prod(packed.shape)
