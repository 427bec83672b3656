"""Several weighted adapters as one: exact, since their outputs are added up at every site.

Of LoRA the ranks stand side by side, ``Σ wᵢ·Bᵢ·Aᵢ = [w₁·B₁ … wₙ·Bₙ] · [A₁; …; Aₙ]``; of bottlenecks the inner units,
with the weights in what leads out of them, as ReLU looks at each unit alone.
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
    """Return one LoRA adapter of scale 1 that adds what all parts add.

    Args:
        config: of each part, but for its rank.
        scales: site -> what ``B · A`` is multiplied with there.
        parts: of one rank at all sites each.
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
    """Return LoRA factors of matrices by site, as a part that :func:`add_lora` takes; empty where all are 0.

    Each is as wide as the largest rank needs (singular values, in float64); what one does not need is 0.
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
    """Return one adapter, as many times as wide as there are parts, that adds what all of them add."""
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
