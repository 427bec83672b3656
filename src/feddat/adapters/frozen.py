"""Frozen weights in the format that they are multiplied in, rounded once instead of in every pass.

Autocast rounds a linear layer's weight to bfloat16 whenever the layer is called, and keeps the result only of weights
that train. Of a frozen model that is one pass over all its weights per route and batch, and as many rounded copies in
memory until the backward pass has used them. Rounded beforehand, they give the same numbers to the last bit, and take
half the memory. Rounded to 8 bits, as what they are multiplied with is then, they give other numbers
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
    """Prepare a model's frozen linear layers, in place, for products in a format; ``fp32`` leaves them alone."""
    if products == "bf16":
        round_frozen(adapters)
    elif products == "int8":
        multiply_in_int8(adapters)


def round_frozen(adapters: Adapters, dtype: torch.dtype = torch.bfloat16) -> int:
    """Keep the frozen linear layers of a model in the dtype that autocast would compute them in, in place.

    These are the ones inside its numbered layers. Word embeddings, which are looked up and not multiplied, what heads
    start from, and all that autocast computes in float32 keep their format.

    Args:
        adapters: on the model, whose passes all run under autocast from now on. Its own weights neither train nor
            move.
        dtype: that of autocast.

    Returns:
        The number of layers.
    """
    layers = 0
    for _, module in _frozen_linears(adapters):
        parameters = list(module.parameters())
        if any(p.dtype != torch.float32 for p in parameters):
            continue
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        layers += 1
    return layers


def multiply_in_int8(adapters: Adapters) -> int:
    """Let the frozen linear layers of a model multiply in 8 bits, in place: those that :func:`round_frozen` rounds.

    Args:
        adapters: on the model, which is on the CPU. Its own weights neither train nor move.

    Returns:
        The number of layers.
    """
    found = list(_frozen_linears(adapters))
    for name, module in found:
        adapters.model.set_submodule(name, Int8ProductLinear(module))
    return len(found)


def _frozen_linears(adapters: Adapters) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers inside a model's numbered layers that neither train nor belong to an adapter, by name."""
    own = {id(parameter) for name in ADAPTERS for parameter in adapters.parameters(name)}
    for name, module in adapters.model.named_modules():
        # A subclass may compute something else with its weight.
        if type(module) is not nn.Linear or layer_of(name) is None:
            continue
        if not any(p.requires_grad or id(p) in own for p in module.parameters()):
            yield name, module
