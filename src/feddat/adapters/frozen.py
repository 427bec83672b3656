"""Frozen weights in the format of their products, rounded once instead of in every pass.

Autocast rounds a linear layer's weight to bfloat16 at every call, and caches the result only for weights that train. A
frozen model therefore rounds all its weights for each route and batch, and keeps the rounded copies in memory until the
backward pass has used them. Weights that are rounded beforehand give the same numbers to the last bit and take half the
memory. With 8-bit products, both factors are rounded to 8 bits, and the numbers differ
(:mod:`feddat.adapters.int8_products`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from feddat.adapters.base import ADAPTERS, Adapters
from feddat.adapters.int8_products import Int8ProductLinear
from feddat.adapters.sites import layer_of
from feddat.precision import Resolved


def prepare_frozen(adapters: Adapters, products: Resolved) -> None:
    """Prepare a model's frozen linear layers, in place, for products in a format; ``fp32`` leaves them unchanged."""
    if products == "bf16":
        round_frozen(adapters)
    elif products == "int8":
        multiply_in_int8(adapters)


def round_frozen(adapters: Adapters) -> int:
    """Convert the frozen linear layers of a model, in place, to bfloat16, in which autocast computes them.

    Only linear layers inside the model's numbered layers are converted. Other weights keep their format: word
    embeddings (looked up, not multiplied), initial values of heads, and everything that autocast computes in float32.

    Args:
        adapters: the adapters on the model. All passes must run under autocast from now on, and the model's own weights
            must neither train nor change.

    Returns:
        The number of converted layers.
    """
    layers = 0
    for _, module in _frozen_linears(adapters):
        parameters = list(module.parameters())
        if any(p.dtype != torch.float32 for p in parameters):
            continue
        for parameter in parameters:
            parameter.data = parameter.data.to(torch.bfloat16)
        layers += 1
    return layers


def multiply_in_int8(adapters: Adapters) -> int:
    """Replace the frozen linear layers inside a model's numbered layers by layers with 8-bit products, in place.

    Args:
        adapters: the adapters on the model, which must be on the CPU. The model's own weights must neither train nor
            change.

    Returns:
        The number of replaced layers.
    """
    found = list(_frozen_linears(adapters))
    for name, module in found:
        adapters.model.set_submodule(name, Int8ProductLinear(module))
    return len(found)


def _frozen_linears(adapters: Adapters) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers inside a model's numbered layers that neither train nor belong to an adapter, by name."""
    own = {id(parameter) for name in ADAPTERS for parameter in adapters.parameters(name)}
    for name, module in adapters.model.named_modules():
        # A subclass can use its weight differently.
        if type(module) is not nn.Linear or layer_of(name) is None:
            continue
        if not any(p.requires_grad or id(p) in own for p in module.parameters()):
            yield name, module
