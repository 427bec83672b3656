"""Layers of ViLT, as their modules compute them, and as a function of tensors alone.

A module under autocast keeps states in float32 between layers and casts them before every product: on a GPU, reading
and writing those takes more time than the products. :class:`PureLayer` computes a layer with its adapter in one format,
with as few and as large operations as can be: one product for queries, keys and values, and the small tensors of all
layers rounded together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.vilt.modeling_vilt import (
    ViltAttention,
    ViltIntermediate,
    ViltLayer,
    ViltOutput,
    ViltSelfOutput,
)

from feddat.models.base import AddsToOutput, PureAddition
from feddat.models.fast_vilt import FastViltSelfAttention

#: Weight and bias of a linear layer.
Linear: TypeAlias = tuple[Tensor, Tensor | None]
#: Weight, bias and epsilon of a norm.
Norm: TypeAlias = tuple[Tensor, Tensor, float]


class PlainLayer:
    """A layer as its modules compute it.

    Args:
        layer: of a ``ViltModel`` with fast attention, and whatever adapters were put on it.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def whole(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output (N, tokens, d) of states (N, tokens, d) under a mask as :func:`block` takes it."""
        output: Tensor = self._layer(states, mask)[0]
        return output

    def bare(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output before the adapter that is behind this layer."""
        states = self._layer.attention(self._layer.layernorm_before(states), mask)[0] + states
        return self._unadapted(states)

    def first(self, states: Tensor, mask: Tensor | None, bare: bool = False) -> Tensor:
        """Return the output for the first token alone, (N, 1, d); bare: before the adapter."""
        layer = self._layer
        known = type(layer) is ViltLayer and type(layer.attention) is ViltAttention
        if not known or type(layer.attention.attention) is not FastViltSelfAttention:
            return self.whole(states, mask)[:, :1]
        normed, first = layer.layernorm_before(states), states[:, :1]
        context = layer.attention.attention.attend(normed[:, :1], normed, mask)
        first = layer.attention.output(context, first) + first
        if bare:
            return self._unadapted(first)
        output: Tensor = layer.output(layer.intermediate(layer.layernorm_after(first)), first)
        return output

    def adapt(self, output: Tensor) -> Tensor:
        """Return what the adapter behind this layer makes of the bare output."""
        adapted: Tensor = self._layer.output.adapt(output)
        return adapted

    def _unadapted(self, states: Tensor) -> Tensor:
        hidden = self._layer.intermediate(self._layer.layernorm_after(states))
        # Not called as a module: that would run the adapter, which is a hook.
        output: Tensor = self._layer.output.get_base_layer().forward(hidden, states)
        return output


@dataclass(frozen=True)
class PureLayer:
    """A layer as a function of tensors, all of them in one format, with the methods of :class:`PlainLayer`.

    Attributes:
        linears: query, key, value, attention's output, and the feed-forward block's two.
        norms: before attention and before the feed-forward block.
        heads: of attention.
        addition: the adapter on the present route.
    """

    linears: Sequence[Linear]
    norms: Sequence[Norm]
    heads: int
    addition: PureAddition

    def whole(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output (N, tokens, d) of states (N, tokens, d) under a mask as :func:`block` takes it."""
        return self._run(states, mask, False, self.addition)

    def bare(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output before the adapter that is behind this layer."""
        return self._run(states, mask, False, _NOTHING)

    def first(self, states: Tensor, mask: Tensor | None, bare: bool = False) -> Tensor:
        """Return the output for the first token alone, (N, 1, d); bare: before the adapter."""
        return self._run(states, mask, True, _NOTHING if bare else self.addition)

    def adapt(self, output: Tensor) -> Tensor:
        """Return what the adapter behind this layer makes of the bare output."""
        function, weights = self.addition
        with torch.autocast(output.device.type, enabled=False):
            return function(self._cast(output), weights)

    def _run(self, states: Tensor, mask: Tensor | None, first: bool, addition: PureAddition) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return block(self._cast(states), mask, self.linears, self.norms, self.heads, first, *addition)

    def _cast(self, states: Tensor) -> Tensor:
        return states.to(self.linears[0][0].dtype)


def pure_layers(layers: Sequence[Any], dtype: torch.dtype) -> list[PureLayer] | None:
    """Return layers as functions in one format; ``None`` where one does not compute what :func:`block` computes.

    Args:
        layers: of a ``ViltModel``, with whatever adapters were put on it and a route that is open until they have run.
        dtype: of states between layers and of everything else; sums within norms and products are wider.
    """
    linears = [found for layer in layers if (found := _linears(layer)) is not None]
    if not layers or len(linears) < len(layers):
        return None
    norms = [norm for layer in layers for norm in (layer.layernorm_before, layer.layernorm_after)]
    rounded = iter(_rounded([tensor for norm in norms for tensor in (norm.weight, norm.bias)], dtype))
    of_norms = iter([(next(rounded), next(rounded), norm.eps) for norm in norms])
    adapted = [layer.output for layer in layers if isinstance(layer.output, AddsToOutput)]
    additions = iter(type(adapted[0]).pure(adapted, dtype) if adapted else [])
    return [
        PureLayer(
            [(one.weight.to(dtype), None if one.bias is None else one.bias.to(dtype)) for one in own],
            (next(of_norms), next(of_norms)),
            layer.attention.attention.num_attention_heads,
            next(additions) if isinstance(layer.output, AddsToOutput) else _NOTHING,
        )
        for layer, own in zip(layers, linears, strict=True)
    ]


def block(
    states: Tensor,
    mask: Tensor | None,
    linears: Sequence[Linear],
    norms: Sequence[Norm],
    heads: int,
    first: bool,
    adapt: Callable[..., Tensor],
    adapter: Sequence[Tensor],
) -> Tensor:
    """Return the output of a pre-LN layer with an adapter behind it, (N, tokens, d); of the first token, (N, 1, d).

    Args:
        states: (N, tokens, d), in the format of all other tensors.
        mask: bool (N, 1, 1, tokens), true where to attend.
        linears: weight and bias of query, key, value, attention's output, and the feed-forward block's two.
        norms: weight, bias and epsilon of the norms before attention and before the feed-forward block.
        heads: of attention.
        first: whether only the first token is asked for.
        adapt: what the adapter makes of the layer's output and ``adapter``.
        adapter: its weights.
    """
    query, key, value, out, up, down = linears
    before, after = norms

    def normed(of: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(of, of.shape[-1:], *norm)

    def split(projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:-1], heads, -1).transpose(1, 2)

    seen = normed(states, before)
    if first:
        states = states[:, :1]
        asking = F.linear(seen[:, :1], *query)
        asked, told = _together(seen, key, value)
    else:
        asking, asked, told = _together(seen, query, key, value)
    attended = F.scaled_dot_product_attention(split(asking), split(asked), split(told), mask)
    states = F.linear(attended.transpose(1, 2).flatten(2), *out) + states
    output = F.linear(F.gelu(F.linear(normed(states, after), *up)), *down) + states
    return adapt(output, adapter)


def _together(states: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
    """Return several products of the same states from one, as on a GPU narrow ones run at half the rate."""
    biases = [bias for _, bias in linears if bias is not None]
    product = F.linear(states, torch.cat([weight for weight, _ in linears]), torch.cat(biases) if biases else None)
    return product.chunk(len(linears), dim=-1)


def _rounded(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Return vectors of one length in a format, in two operations for all of them."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    return torch.stack(list(tensors)).to(dtype).unbind()


def _linears(layer: Any) -> list[nn.Linear] | None:
    """Return the linear layers that :func:`block` takes; ``None`` where a layer is not one that it computes."""
    if type(layer) is not ViltLayer or "forward" in vars(layer):  # wrapped, or checkpointed
        return None
    output: Any = layer.output
    if isinstance(output, AddsToOutput):
        if not output.adds_to_output:
            return None
        output = output.get_base_layer()
    parts: list[tuple[Any, type]] = [
        (layer.attention, ViltAttention),
        (layer.intermediate, ViltIntermediate),
        (output, ViltOutput),
        (layer.layernorm_before, nn.LayerNorm),
        (layer.layernorm_after, nn.LayerNorm),
    ]
    if any(type(part) is not kind for part, kind in parts):
        return None
    attention, projection, intermediate = layer.attention.attention, layer.attention.output, layer.intermediate
    if type(attention) is not FastViltSelfAttention or type(projection) is not ViltSelfOutput:
        return None
    if not _is_gelu(intermediate.intermediate_act_fn):
        return None
    if any(module.training and module.p > 0 for module in (attention.dropout, projection.dropout, output.dropout)):
        return None
    found = [attention.query, attention.key, attention.value, projection.dense, intermediate.dense, output.dense]
    return found if all(type(linear) is nn.Linear for linear in found) else None


def _is_gelu(function: Any) -> bool:
    return type(function).__name__ == "GELUActivation" and not getattr(function, "use_gelu_python", False)


def _unchanged(output: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return output


_NOTHING: PureAddition = (_unchanged, ())
