"""A layer of ViLT with its adapter as one function of tensors, for ``torch.compile``.

Compiled, what lies between matrix products (norms, casts, residuals, GELU) becomes a few kernels, each of which reads
and writes its tensors once: on a GPU, half of the time goes there. Modules with hooks and routes would be compiled once
for every layer and route; a function that takes all its tensors as arguments is compiled once for every number of
adapters on a route. Under autocast, states are rounded between layers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.vilt.modeling_vilt import ViltAttention, ViltLayer, ViltOutput

from feddat.models.base import AddsToOutput
from feddat.models.fast_vilt import FastViltSelfAttention


def plain_layer(layer: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Return a layer's output (N, tokens, d) as the layer itself computes it."""
    output: Tensor = layer(states, mask)[0]
    return output


def bare_layer(layer: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the output (N, tokens, d) of a layer with an adapter behind it, as it is before the adapter."""
    states = layer.attention(layer.layernorm_before(states), mask)[0] + states
    hidden = layer.intermediate(layer.layernorm_after(states))
    # Not called as a module: that would run the adapter, which is a hook.
    output: Tensor = layer.output.get_base_layer().forward(hidden, states)
    return output


def compiled_layer(layer: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Return a layer's output (N, tokens, d), compiled if nothing but an adapter behind it differs from the stock one.

    Args:
        layer: a ``ViltLayer``.
        states: (N, tokens, d).
        mask: bool (N, 1, 1, tokens), true where to attend.
    """
    if (linears := _linears(layer)) is None:
        return plain_layer(layer, states, mask)
    pure = layer.output.pure() if isinstance(layer.output, AddsToOutput) else (_unchanged, (), ())
    return _call(layer, linears, states, mask, *pure)


def compiled_bare(layer: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Return what :func:`bare_layer` returns, compiled where :func:`compiled_layer` is."""
    if (linears := _linears(layer)) is None:
        return bare_layer(layer, states, mask)
    return _call(layer, linears, states, mask, _unchanged, (), ())


def _call(layer: Any, linears: list[nn.Linear], states: Tensor, mask: Tensor | None, *pure: Any) -> Tensor:
    kind = states.device.type
    if torch.is_autocast_enabled(kind):  # half of the bytes: between matrix products, bytes are what takes the time
        states = states.to(torch.get_autocast_dtype(kind))
    return _compiled()(
        states,
        mask,
        [(linear.weight, linear.bias) for linear in linears],
        [(norm.weight, norm.bias, norm.eps) for norm in (layer.layernorm_before, layer.layernorm_after)],
        layer.attention.attention.num_attention_heads,
        *pure,
    )


def block(
    states: Tensor,
    mask: Tensor | None,
    linears: Sequence[tuple[Tensor, Tensor]],
    norms: Sequence[tuple[Tensor, Tensor, float]],
    heads: int,
    adapt: Callable[..., Tensor],
    adapters: Sequence[Any],
    scales: Sequence[Any],
) -> Tensor:
    """Return the output of a pre-LN layer with an adapter behind it, (N, tokens, d).

    Args:
        states: (N, tokens, d).
        mask: bool (N, 1, 1, tokens), true where to attend.
        linears: weight and bias of query, key, value, attention's output, and the feed-forward block's two.
        norms: weight, bias and epsilon of the norms before attention and before the feed-forward block.
        heads: of attention.
        adapt: what the adapter makes of the layer's output, ``adapters`` and ``scales``.
        adapters: its weights.
        scales: its scales.
    """
    query, key, value, out, up, down = linears
    before, after = norms

    def normed(of: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
        return F.layer_norm(of, of.shape[-1:], *norm)

    def split(projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:-1], heads, -1).transpose(1, 2)

    # Three products in one: on a GPU narrow ones run at half the rate.
    biases = None if query[1] is None else torch.cat([query[1], key[1], value[1]])
    together = F.linear(normed(states, before), torch.cat([query[0], key[0], value[0]]), biases)
    asking, asked, told = together.chunk(3, dim=-1)
    attended = F.scaled_dot_product_attention(split(asking), split(asked), split(told), mask)
    states = F.linear(attended.transpose(1, 2).flatten(2), *out) + states
    output = F.linear(F.gelu(F.linear(normed(states, after), *up)), *down) + states
    return adapt(output, adapters, scales)


@cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(block, dynamic=True)  # batches differ in rows and tokens


def _linears(layer: Any) -> list[nn.Linear] | None:
    """Return the linear layers that :func:`block` takes; ``None`` where a layer is not one that it computes."""
    output = layer.output.get_base_layer() if isinstance(layer.output, AddsToOutput) else layer.output
    if "forward" in vars(layer):  # checkpointed
        return None
    if type(layer) is not ViltLayer or type(layer.attention) is not ViltAttention or type(output) is not ViltOutput:
        return None
    if isinstance(layer.output, AddsToOutput) and not layer.output.adds_to_output:
        return None
    attention, intermediate = layer.attention.attention, layer.intermediate
    if type(attention) is not FastViltSelfAttention or not _is_gelu(intermediate.intermediate_act_fn):
        return None
    if any(
        module.training and module.p > 0
        for module in (attention.dropout, layer.attention.output.dropout, output.dropout)
    ):
        return None
    found = [
        attention.query,
        attention.key,
        attention.value,
        layer.attention.output.dense,
        intermediate.dense,
        output.dense,
    ]
    return found if all(type(linear) is nn.Linear for linear in found) else None


def _is_gelu(function: Any) -> bool:
    return type(function).__name__ == "GELUActivation" and not getattr(function, "use_gelu_python", False)


def _unchanged(output: Tensor, weights: Sequence[Any], scales: Sequence[Any]) -> Tensor:
    return output
