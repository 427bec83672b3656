"""From plain settings to adapters on a model, and what they cost in parameters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from peft import LoraConfig, PeftConfig
from torch import nn

from feddat.adapters.base import ADAPTERS, Adapters
from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.dual import DualAdapters
from feddat.adapters.sites import default_sites


def build_adapters(
    model: nn.Module,
    *,
    peft: Literal["bottleneck", "lora"] = "bottleneck",
    reduction: int = 16,
    rank: int = 16,
    alpha: int = 16,
    sites: str | None = None,
) -> Adapters:
    """Put global, local and anchor adapters on ``model``, whose modules are wrapped in place and frozen.

    Args:
        model: a transformers model (or any module, if ``sites`` are given).
        peft: kind of adapter.
        reduction: bottleneck: inner width is the site's width / reduction.
        rank: LoRA: rank.
        alpha: LoRA: scale is alpha / rank. The adapted projections keep their pretrained weights.
        sites: regular expression over whole module names; default: per model type, see :mod:`feddat.adapters.sites`
            (LoRA: query and value projections).

    Raises:
        ValueError: the kind is unknown, a setting is out of range, there are no default sites for the model, or
            ``sites`` match nothing.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    config: PeftConfig
    if peft == "bottleneck":
        config = BottleneckConfig(
            target_modules=sites or default_sites(model_type).bottleneck,
            reduction=reduction,
        )
    elif peft == "lora":
        config = LoraConfig(target_modules=sites or default_sites(model_type).lora, r=rank, lora_alpha=alpha)
    else:
        raise ValueError(f"unknown kind of adapter {peft!r}; kinds are bottleneck, lora")
    return DualAdapters(model, config)


def count_parameters(
    adapters: Adapters, *, trains: Collection[str], communicates: bool, head: nn.Module | None = None
) -> dict[str, int]:
    """Count one client's parameters.

    Args:
        adapters: the model and its adapters.
        trains: adapters that the method trains, of ``global`` and ``local``.
        communicates: whether the global adapter travels.
        head: the personal task head, if it is to be counted.

    Returns:
        ``total``: backbone, trained adapters and head; ``trainable``: trained adapters and head; ``communicated``: what
        travels one way between a client and the server in one round. The anchor, a copy, is not counted.
    """

    def size(parameters: Collection[nn.Parameter]) -> int:
        return sum(parameter.numel() for parameter in parameters)

    sizes = {name: size(adapters.parameters(name)) for name in ADAPTERS}
    backbone = size(list(adapters.model.parameters())) - sum(sizes.values())
    trainable = sum(sizes[name] for name in trains) + (size(list(head.parameters())) if head is not None else 0)
    return {
        "total": backbone + trainable,
        "trainable": trainable,
        "communicated": sizes["global"] if communicates else 0,
    }
