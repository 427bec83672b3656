"""Combine several weighted adapters into one; this is exact because every site adds up their outputs.

LoRA concatenates the ranks: ``Σ wᵢ·Bᵢ·Aᵢ = [w₁·B₁ … wₙ·Bₙ] · [A₁; …; Aₙ]``. Bottlenecks concatenate the inner units and
put the weights into the up-projections, which is valid because ReLU acts on each unit separately.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig
from torch import Tensor

from feddat.adapters.base import Part
from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.bottleneck.layer import joined

_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"
_BOTTLENECK = (".bottleneck_down.weight", ".bottleneck_down.bias", ".bottleneck_up.weight", ".bottleneck_up.bias")


def add_lora(
    config: LoraConfig, scales: Mapping[str, float], parts: Sequence[Part]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return one LoRA adapter of scale 1 that equals the weighted sum of the parts.

    Args:
        config: the configuration of every part, apart from the rank.
        scales: site -> scale of ``B · A`` at that site.
        parts: weights and states; each part has the same rank at all sites.
    """
    state: dict[str, Tensor] = {}
    rank = 0
    for site, scale in scales.items():
        a, b = site + _LORA_A, site + _LORA_B
        state[a] = torch.cat([part[a] for _, part in parts])
        state[b] = torch.cat([weight * scale * part[b] for weight, part in parts], dim=1)
        rank = len(state[a])
    config = copy.deepcopy(config)
    config.r = config.lora_alpha = rank
    return config, state


def factored(products: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LoRA factors of matrices by site, as a state for :func:`add_lora`; empty if all matrices are 0.

    All factors have the largest rank that any matrix needs (by its singular values, in float64); unused ranks are 0.
    """
    found = {}
    for site, product in products.items():
        left, values, right = torch.linalg.svd(product.double(), full_matrices=False)
        rank = int((values > values[:1] * torch.finfo(torch.float32).eps).sum())
        found[site] = (left[:, :rank] * values[:rank]).float(), right[:rank].float()
    widest = max((len(a) for _, a in found.values()), default=0)
    state: dict[str, Tensor] = {}
    for site, (b, a) in found.items() if widest else ():
        state[site + _LORA_A] = torch.nn.functional.pad(a, (0, 0, 0, widest - len(a)))
        state[site + _LORA_B] = torch.nn.functional.pad(b, (0, widest - len(a)))
    return state


def add_bottlenecks(
    config: BottleneckConfig, sites: Sequence[str], parts: Sequence[Part]
) -> tuple[BottleneckConfig, dict[str, Tensor]]:
    """Return one adapter that equals the weighted sum of the parts; its inner width is the sum of theirs."""
    state: dict[str, Tensor] = {}
    scales: list[float | Tensor] = [weight for weight, _ in parts]
    for site in sites:
        names = [site + name for name in _BOTTLENECK]
        weights = [(part[names[0]], part[names[1]], part[names[2]], part[names[3]]) for _, part in parts]
        ((*values,),) = joined([(weights, scales)], torch.float32)
        state |= zip(names, values, strict=True)
    config = copy.deepcopy(config)
    config.count *= len(parts)
    return config, state
