"""Layers of ViLT, computed by their modules or by functions in one dtype.

Under autocast, modules keep states in float32 between layers and cast them before every product. On a GPU, reading and
writing these states takes more time than the products. :class:`PureLayer` computes a layer with its adapter in one
dtype, in few and large operations: the adapters of a route count as one, and the small tensors of all layers are
rounded together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

from feddat.models.attention import attention
from feddat.models.base import AddsToOutput, PureAddition
from feddat.models.vilt.fast import FastViltSelfAttention

#: A linear layer as a function.
Linear: TypeAlias = Callable[[Tensor], Tensor]
#: Function from some tokens (N, Q, d) and all tokens (N, tokens, d) to queries of the former, keys and values of all.
Projection: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
#: Weight, bias and epsilon of a LayerNorm.
Norm: TypeAlias = tuple[Tensor, Tensor, float]


class PlainLayer:
    """A layer that is computed by its modules.

    Args:
        layer: layer of a ``ViltModel`` with fast attention, including any adapters.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def whole(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output (N, tokens, d) of states (N, tokens, d). True in ``mask`` (N, 1, 1, tokens): attend."""
        output: Tensor = self._layer(states, mask)[0]
        return output

    def bare(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output before the adapter at the end of this layer."""
        states = self._layer.attention(self._layer.layernorm_before(states), mask)[0] + states
        return self._unadapted(states)

    def first(self, states: Tensor, mask: Tensor | None, bare: bool = False) -> Tensor:
        """Return only the output of the first token, (N, 1, d); with ``bare``, before the adapter."""
        layer = self._layer
        known = type(layer) is ViltLayer and type(layer.attention) is ViltAttention
        if not known or type(layer.attention.attention) is not FastViltSelfAttention:
            return self.whole(states, mask)[:, :1]
        normed, first = layer.layernorm_before(states), states[:, :1].contiguous()
        context = layer.attention.attention.attend(normed[:, :1].contiguous(), normed, mask)
        first = layer.attention.output(context, first) + first
        if bare:
            return self._unadapted(first)
        output: Tensor = layer.output(layer.intermediate(layer.layernorm_after(first)), first)
        return output

    def adapt(self, output: Tensor) -> Tensor:
        """Return the output of the adapter at the end of this layer for the bare output."""
        adapted: Tensor = self._layer.output.adapt(output)
        return adapted

    def _unadapted(self, states: Tensor) -> Tensor:
        hidden = self._layer.intermediate(self._layer.layernorm_after(states))
        # Calling the module itself would also run the adapter, which is a hook.
        output: Tensor = self._layer.output.get_base_layer().forward(hidden, states)
        return output


@dataclass(frozen=True)
class PureLayer:
    """A layer in one dtype, with the methods of :class:`PlainLayer`.

    Attributes:
        dtype: dtype of states, weights and intermediate results; sums within norms and products are wider.
        project: projection to queries, keys and values.
        linears: output layer of attention, and the two layers of the feed-forward block.
        norms: LayerNorms before attention and before the feed-forward block.
        heads: number of attention heads.
        addition: the adapter on the route that was active when this object was created.
    """

    dtype: torch.dtype
    project: Projection
    linears: tuple[Linear, Linear, Linear]
    norms: tuple[Norm, Norm]
    heads: int
    addition: PureAddition

    def whole(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output (N, tokens, d) of states (N, tokens, d). True in ``mask`` (N, 1, 1, tokens): attend."""
        return self._output(states, mask, False, self.addition)

    def bare(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output before the adapter at the end of this layer."""
        return self._output(states, mask, False, _NOTHING)

    def first(self, states: Tensor, mask: Tensor | None, bare: bool = False) -> Tensor:
        """Return only the output of the first token, (N, 1, d); with ``bare``, before the adapter."""
        return self._output(states, mask, True, _NOTHING if bare else self.addition)

    def adapt(self, output: Tensor) -> Tensor:
        """Return the output of the adapter at the end of this layer for the bare output."""
        adapt, weights = self.addition
        with torch.autocast(output.device.type, enabled=False):
            return adapt(output.to(self.dtype), weights)

    def _output(self, states: Tensor, mask: Tensor | None, first: bool, addition: PureAddition) -> Tensor:
        before, after = self.norms
        out, up, down = self.linears
        adapt, weights = addition
        with torch.autocast(states.device.type, enabled=False):
            states = states.to(self.dtype)
            seen = _normed(states, before)
            asking = seen
            if first:
                # Contiguous, because otherwise a product copies its weight for every row of the batch.
                states, asking = states[:, :1].contiguous(), seen[:, :1].contiguous()
            query, key, value = (self._split(projected) for projected in self.project(asking, seen))
            attended = attention(query, key, value, mask).transpose(1, 2).flatten(2)
            states = out(attended) + states
            return adapt(down(F.gelu(up(_normed(states, after)))) + states, weights)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:-1], self.heads, -1).transpose(1, 2)


def pure_layers(layers: Sequence[Any], dtype: torch.dtype, fused: bool = False) -> list[PureLayer] | None:
    """Return layers in one dtype; ``None`` if it is unknown whether :class:`PureLayer` computes the same as a layer.

    Args:
        layers: layers of a ``ViltModel``, including any adapters, with an active route.
        dtype: dtype to compute in.
        fused: whether to compute queries, keys and values in one product. On a GPU, narrow products run at half speed.
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
            dtype,
            _projection(query, key, value, dtype, fused),
            (_product(out, dtype), _product(up, dtype), _product(down, dtype)),
            (next(of_norms), next(of_norms)),
            layer.attention.attention.num_attention_heads,
            next(additions) if isinstance(layer.output, AddsToOutput) else _NOTHING,
        )
        for layer, (query, key, value, out, up, down) in zip(layers, linears, strict=True)
    ]


def _normed(states: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], *norm)


def _projection(query: nn.Linear, key: nn.Linear, value: nn.Linear, dtype: torch.dtype, fused: bool) -> Projection:
    ask, index, tell = (_product(linear, dtype) for linear in (query, key, value))
    if not fused or any(type(linear) is not nn.Linear for linear in (query, key, value)):
        return lambda asking, states: (ask(asking), index(states), tell(states))
    weights: list[Tensor] = [linear.weight for linear in (query, key, value)]
    biases: list[Tensor] = [linear.bias for linear in (query, key, value) if linear.bias is not None]
    weight = torch.cat(weights).to(dtype)
    bias = torch.cat(biases).to(dtype) if biases else None

    def project(asking: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        if asking is states:
            return F.linear(states, weight, bias).chunk(3, dim=-1)
        width = query.out_features
        rest = F.linear(states, weight[width:], None if bias is None else bias[width:])
        return (ask(asking), *rest.chunk(2, dim=-1))

    return project


def _product(linear: nn.Linear, dtype: torch.dtype) -> Linear:
    if type(linear) is not nn.Linear:
        return linear
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return partial(F.linear, weight=linear.weight.to(dtype), bias=bias)


def _rounded(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Return vectors of equal length in a dtype, using two operations for all of them."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    return torch.stack(list(tensors)).to(dtype).unbind()


def _linears(layer: Any) -> list[nn.Linear] | None:
    """Return a layer's linear modules: query, key, value, attention's output, and the two of the feed-forward block.

    ``None`` if it is unknown whether :class:`PureLayer` computes the same as the layer.
    """
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
    known = (type(linear) is nn.Linear or getattr(linear, "keeps_format", False) for linear in found)
    return found if all(known) else None


def _is_gelu(function: Any) -> bool:
    return type(function).__name__ == "GELUActivation" and not getattr(function, "use_gelu_python", False)


def _unchanged(output: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return output


_NOTHING: PureAddition = (_unchanged, ())
