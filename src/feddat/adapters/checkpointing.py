"""Gradient checkpointing for models with several routes: backward computes a layer's activations again.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174: only the inputs of every transformer
layer are kept. Routes add a trap. The second computation runs during backward, when a different route can be open, and
the gradients would then be silently wrong. Each layer therefore remembers the route of its first computation and opens
it for the second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from feddat.adapters.base import Adapters, Route


def checkpoint_layers(adapters: Adapters) -> int:
    """Checkpoint every transformer layer of the model below ``adapters`` from now on; return the number of layers.

    This affects only passes in training mode with gradients. transformers' own switch is not used because it disables
    the layers' key-value cache.

    Raises:
        ValueError: the model has no layer that can be checkpointed.
    """
    layers = [module for module in adapters.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"{type(adapters.model).__name__} has no layers that can be checkpointed")
    for layer in layers:
        plain: Any = layer
        plain.forward = partial(_forward, layer, type(layer).forward, adapters)
    return len(layers)


def _forward(layer: Any, forward: Any, adapters: Adapters, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()):
        return forward(layer, *args, **kwargs)
    route = adapters.opened
    return checkpoint(
        partial(forward, layer, **kwargs),
        *args,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _reopened(adapters, route)),
    )


@contextlib.contextmanager
def _reopened(adapters: Adapters, route: Route) -> Iterator[None]:
    """Open a route inside the block and reopen the previous route after it."""
    before = adapters.opened
    if before is route:
        yield
        return
    adapters.route(route)
    try:
        yield
    finally:
        adapters.route(before)
