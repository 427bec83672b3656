"""ViLT's forward pass in two stages: a prefix that no route changes, and the rest up to the pooled first token.

*Prefix*: the embeddings and the layers below the first module that routes change. FedDAT runs every batch on two
routes, and an evaluation on three. The prefix is the same for all of them. With bottleneck adapters it extends to the
first adapter, which reads the output of the first layer.

*Rest*: only the first token's last state is pooled. So the last layer computes keys and values for all tokens, but
queries, projection, feed-forward block and adapter only for the first token.

Both stages return the stock model's numbers, up to the order of floating-point sums. Modules that adapters wrap in an
unknown way are called as a whole, as in the stock model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.vilt.modeling_vilt import ViltLayer

from feddat.models.base import AddsToOutput
from feddat.models.stages import MASK, STATES, drops_out, is_changed
from feddat.models.vilt.block import PlainLayer, PureLayer, pure_layers


class ViltStages:
    """The two stages of one ViLT.

    Args:
        vilt: a ``ViltModel`` with fast embeddings and attention, including any adapters.
        changed: modules that routes change; ``None`` if unknown, in which case the model runs as a whole.

    Attributes:
        vilt: that model.
        depth: number of layers below the first change; -1 without a prefix.
    """

    def __init__(self, vilt: Any, changed: Collection[nn.Module] | None = None) -> None:
        self.vilt = vilt
        # The stack of layers itself is changed if something other than the tokens enters it.
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
        """Return the states from which :meth:`pooled` continues; the inputs themselves if there is no prefix."""
        if self.depth < 0 or STATES in inputs or drops_out(self.vilt):
            return inputs
        states, mask = self._embed(inputs)
        count = 0 if self._whole_stack else len(self.vilt.encoder.layer)
        bare = self._adapter is not None
        layers = self._layers(slice(0, self.depth + bare), states)
        for layer in layers[: min(self.depth, count - 1)]:
            states = layer.whole(states, mask)
        if count and self.depth + bare >= count:
            # Only the first token is needed later.
            return {STATES: layers[-1].first(states, mask, bare)}
        if bare:
            states = layers[self.depth].bare(states, mask)
        return {STATES: states} if mask is None else {STATES: states, MASK: mask}

    def pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled first token, (N, d), of a batch's inputs or of their :meth:`prefix`."""
        vilt, first, adapts = self.vilt, 0, False
        if STATES in inputs:
            states, mask, first, adapts = inputs[STATES], inputs.get(MASK), self.depth, self._adapter is not None
        else:
            states, mask = self._embed(inputs)
        if self._whole_stack:
            states = vilt.encoder(states, attention_mask=mask).last_hidden_state
        else:
            layers = self._layers(slice(first, None), states)
            if adapts:
                states = layers.pop(0).adapt(states)
            for layer in layers[:-1]:
                states = layer.whole(states, mask)
            if layers:
                states = layers[-1].first(states, mask)
        pooled: Tensor = vilt.pooler(vilt.layernorm(states[:, :1]))
        return pooled

    def _layers(self, which: slice, states: Tensor) -> list[PlainLayer] | list[PureLayer]:
        """Return some of the layers; under autocast, in its dtype throughout if possible."""
        layers = [] if self._whole_stack else list(self.vilt.encoder.layer[which])
        kind = states.device.type
        if torch.is_autocast_enabled(kind):
            pure = pure_layers(layers, torch.get_autocast_dtype(kind), fused=kind == "cuda")
            if pure is not None:
                return pure
        return [PlainLayer(layer) for layer in layers]

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
    """Return the adapter at the end of a layer if it is the only changed module in the layer."""
    if type(layer) is not ViltLayer or not isinstance(layer.output, AddsToOutput):
        return None
    alone = [module for module in layer.modules() if module in changed] == [layer.output]
    return layer.output if layer.output.adds_to_output and alone else None
