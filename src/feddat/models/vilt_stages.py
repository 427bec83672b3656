"""ViLT's forward pass in two stages: what no route changes, then the rest, up to the pooled first token alone.

*Prefix*: embeddings and layers below the first module that routes change. FedDAT sends every batch down two routes, an
evaluation down three, and the prefix is the same for all of them. With bottleneck adapters it goes on to the first
adapter, which reads the first layer's output.

*Rest*: nothing but the first token's last state is pooled. So the last layer computes keys and values of all tokens,
and everything else (queries, projection, feed-forward block, adapter) of the first token only.

Both give the stock model's numbers, up to the order of floating-point sums. Modules that adapters wrapped in a way that
is not known here are called whole, as the stock model does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.vilt.modeling_vilt import ViltAttention, ViltLayer

from feddat.models.base import AddsToOutput
from feddat.models.fast_vilt import FastViltSelfAttention
from feddat.models.stages import MASK, STATES, drops_out, is_changed
from feddat.models.vilt_block import bare_layer, compiled_bare, compiled_layer, plain_layer


class ViltStages:
    """The two stages of one ViLT.

    Args:
        vilt: a ``ViltModel`` with fast embeddings and attention, and whatever adapters were put on it.
        changed: the modules that routes change; ``None``: not known, so that all of it runs as a whole.
        compiled: see there.

    Attributes:
        vilt: that model.
        compiled: whether layers with nothing but an adapter behind them are compiled (:mod:`feddat.models.vilt_block`).
        depth: so many layers are below the first change; -1: there is no prefix.
    """

    def __init__(self, vilt: Any, changed: Collection[nn.Module] | None = None, compiled: bool = False) -> None:
        self.vilt = vilt
        self.compiled = compiled
        # The stack of layers is itself a changed module where something enters beside the tokens.
        self._whole_stack = changed is None or vilt.encoder in changed
        self._adapter: AddsToOutput | None = None
        self.depth = -1
        if changed is None or is_changed(vilt.embeddings, changed):
            return
        layers = [] if self._whole_stack else list(vilt.encoder.layer)
        self.depth = next((index for index, layer in enumerate(layers) if is_changed(layer, changed)), len(layers))
        if self.depth < len(layers):
            self._adapter = _adapter_behind(layers[self.depth], changed)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what :meth:`pooled` goes on from; the inputs themselves where there is no prefix."""
        if self.depth < 0 or STATES in inputs or drops_out(self.vilt):
            return inputs
        states, mask = self._embed(inputs)
        layers = [] if self._whole_stack else list(self.vilt.encoder.layer)
        for layer in layers[: min(self.depth, len(layers) - 1)]:
            states = layer(states, mask)[0]
        if layers and self.depth + (self._adapter is not None) >= len(layers):
            # Only the first token is ever asked for again.
            return {STATES: _first_token(layers[-1], states, mask, bare=self._adapter is not None)}
        if self._adapter is not None:
            bare = compiled_bare if self.compiled else bare_layer
            states = bare(layers[self.depth], states, mask)
        return {STATES: states} if mask is None else {STATES: states, MASK: mask}

    def pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled first token, (N, d), of a batch's inputs or of what :meth:`prefix` made of them."""
        vilt, first = self.vilt, 0
        if STATES in inputs:
            states, mask, first = inputs[STATES], inputs.get(MASK), self.depth
            if self._adapter is not None:
                states, first = self._adapter.adapt(states), first + 1
        else:
            states, mask = self._embed(inputs)
        if self._whole_stack:
            states = vilt.encoder(states, attention_mask=mask).last_hidden_state
        else:
            *layers, last = vilt.encoder.layer
            run = compiled_layer if self.compiled and torch.is_grad_enabled() else plain_layer
            for layer in layers[first:]:
                states = run(layer, states, mask)
            if first <= len(layers):
                states = _first_token(last, states, mask)
        pooled: Tensor = vilt.pooler(vilt.layernorm(states[:, :1]))
        return pooled

    def _embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        given = {"input_ids": None, "inputs_embeds": None} | inputs
        states, mask = self.vilt.embeddings(
            given["input_ids"],
            given["attention_mask"],
            None,
            given["pixel_values"],
            given["pixel_mask"],
            given["inputs_embeds"],
            None,
            image_token_type_idx=1,
        )
        return states, mask


def _adapter_behind(layer: nn.Module, changed: Collection[nn.Module]) -> AddsToOutput | None:
    """Return the adapter that comes last in a layer, if nothing else in it is changed."""
    if type(layer) is not ViltLayer or not isinstance(layer.output, AddsToOutput):
        return None
    alone = [module for module in layer.modules() if module in changed] == [layer.output]
    return layer.output if layer.output.adds_to_output and alone else None


def _first_token(layer: Any, states: Tensor, mask: Tensor | None, bare: bool = False) -> Tensor:
    """Return a layer's output for the first token, (N, 1, d); bare: before the adapter behind it."""
    known = type(layer) is ViltLayer and type(layer.attention) is ViltAttention
    if not known or type(layer.attention.attention) is not FastViltSelfAttention:
        whole: Tensor = layer(states, mask)[0]
        return whole[:, :1]
    normed, first = layer.layernorm_before(states), states[:, :1]
    context = layer.attention.attention.attend(normed[:, :1], normed, mask)
    first = layer.attention.output(context, first) + first
    hidden = layer.intermediate(layer.layernorm_after(first))
    output: Tensor = layer.output.get_base_layer().forward(hidden, first) if bare else layer.output(hidden, first)
    return output
