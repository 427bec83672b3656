"""Frozen weights as autocast uses them, rounded once instead of in every pass.

Autocast rounds a linear layer's weight to bfloat16 whenever the layer is called, and keeps the result only of weights
that train. Of a frozen model that is one pass over all its weights per route and batch, and as many rounded copies in
memory until the backward pass has used them. Rounded beforehand, they give the same numbers to the last bit, and take
half the memory.
"""

from __future__ import annotations

import torch
from torch import nn

from feddat.adapters.base import ADAPTERS, Adapters
from feddat.adapters.sites import layer_of


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
    own = {id(parameter) for name in ADAPTERS for parameter in adapters.parameters(name)}
    layers = 0
    for name, module in adapters.model.named_modules():
        # A subclass may compute something else with its weight.
        if type(module) is not nn.Linear or layer_of(name) is None:
            continue
        parameters = list(module.parameters())
        if any(p.requires_grad or id(p) in own or p.dtype != torch.float32 for p in parameters):
            continue
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        layers += 1
    return layers
