"""Gradient checkpointing for models with several routes: a layer's activations are computed again for its gradients.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174: of every transformer layer only what
enters it is kept. With routes there is a trap: the second computation happens during backward, when another route may
be open than the one whose gradient is wanted, and gradients would be silently wrong. Here each layer remembers the
route of its first computation, and has it open for the second.
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
    """Checkpoint every transformer layer of the model below ``adapters`` from now on; return their number.

    Only passes in training mode with gradients change. transformers' own switch is left alone: it would take the
    key-value cache away from the layers.

    Raises:
        ValueError: the model has no layer of a kind that can be checkpointed.
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
    """Have a route open, and then the one that was open before."""
    before = adapters.opened
    if before is route:
        yield
        return
    adapters.route(route)
    try:
        yield
    finally:
        adapters.route(before)
