"""Hooks through which tokens enter a stack of transformer layers and leave it again.

PEFT's own prompt tuning puts its tokens before the word embeddings, adds positions to them, and leaves them in the
output. ViLT and BERT would then pool a prompt instead of [CLS], and images would get no prompts. Here, the tokens enter
before the first transformer layer and are removed after the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PromptEntry:
    """The hooks of one stack.

    Args:
        stack: the module around all transformer layers.
        around: the module that contains the stack; with several inputs, it also has their type embeddings.
        inputs: number of inputs that get prompts.
        causal: whether a token sees only the tokens before it.
        active: returns the prompts to insert, one per input, or ``None`` for no prompts.
    """

    def __init__(
        self, stack: Any, around: Any, inputs: int, causal: bool, active: Callable[[], Iterable[nn.Module] | None]
    ) -> None:
        self._types: nn.Embedding | None = around.embeddings.token_type_embeddings if inputs > 1 else None
        self._causal = causal
        self._active = active
        self._length = 0  # number of inserted tokens
        self._hooks = [
            stack.register_forward_pre_hook(self._enter, with_kwargs=True),
            stack.register_forward_hook(self._leave),
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _front(self, prompts: Iterable[nn.Module]) -> Tensor:
        """Return the tokens to insert, (length, d), each with its input's type embedding."""
        tokens = [prompt() for prompt in prompts]
        if self._types is not None:
            tokens = [token + kind for token, kind in zip(tokens, self._types.weight, strict=False)]
        return torch.cat(tokens)

    def _enter(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Put the tokens before the input of the transformer layers, and extend its mask and positions."""
        self._length = 0
        prompts = self._active()
        if prompts is None:
            return None
        given = {key: value for key, value in kwargs.items() if value is not None}
        cache = given.get("cache")
        if cache is not None and (seen := cache.get_seq_length()):
            # The cache already holds the prompts, so the mask must cover them and the cached tokens.
            if _keys(given.get("attention_mask")) <= seen:
                raise ValueError(
                    "soft prompts cannot continue from a filled cache without a 4-D mask over all cached tokens"
                )
            return None
        front = self._front(prompts)
        self._length = len(front)

        def prepend(states: Tensor) -> Tensor:
            return torch.cat([front.to(states.dtype).expand(len(states), -1, -1), states], dim=1)

        if "input_ids" in given:
            given["inputs_embeds"] = stack.get_input_embeddings()(given.pop("input_ids"))
        if args:
            args = (prepend(args[0]), *args[1:])
        else:
            key = "inputs_embeds" if "inputs_embeds" in given else "hidden_states"
            given[key] = prepend(given[key])
        if "attention_mask" in given:
            mask = given["attention_mask"]
            given["attention_mask"] = (
                {key: value if value is None else self._extended(value) for key, value in mask.items()}
                if isinstance(mask, dict)  # one mask for each kind of layer
                else self._extended(mask)
            )
        if "visual_pos_masks" in given:  # positions at which Qwen3-VL adds pictures again between its layers
            given["visual_pos_masks"] = functional.pad(given["visual_pos_masks"], (self._length, 0), value=False)
        if "position_ids" in given:
            given["position_ids"] = extend_positions(given["position_ids"], self._length)
        return args, given

    def _leave(self, stack: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Remove the tokens from the output of the transformer layers."""
        if not self._length:
            return None
        if isinstance(output, tuple):
            return output[0][:, self._length :], *output[1:]
        output.last_hidden_state = output.last_hidden_state[:, self._length :]
        return output

    def _extended(self, mask: Tensor) -> Tensor:
        return extend_mask(mask, self._length, self._causal)


def _keys(mask: Any) -> int:
    """Return the number of tokens that a 4-D mask (or the first of several) covers; 0 without such a mask."""
    mask = next(iter(mask.values())) if isinstance(mask, dict) else mask
    return int(mask.shape[-1]) if isinstance(mask, Tensor) and mask.dim() == 4 else 0


def extend_mask(mask: Tensor, length: int, causal: bool) -> Tensor:
    """Return an attention mask with ``length`` more tokens in front, which all other tokens see.

    Args:
        mask: (N, L), not zero where a token is; or (N, 1, Q, L), the tokens that position q sees, as booleans or as
            numbers that are added to the scores.
        length: number of new tokens.
        causal: whether each new token sees only the tokens up to itself, instead of all that the first position sees.
    """
    if mask.dim() == 2:
        return functional.pad(mask, (length, 0), value=1)
    seen, hidden = (0.0, torch.finfo(mask.dtype).min) if mask.is_floating_point() else (True, False)
    mask = functional.pad(mask, (length, 0), value=seen)
    if mask.shape[2] == 1:  # one row for all positions
        return mask
    rows = mask[:, :, :1].expand(-1, -1, length, -1)
    if causal:
        earlier = torch.ones(rows.shape[2:], dtype=torch.bool, device=mask.device).tril()
        rows = torch.full_like(rows, hidden).masked_fill(earlier, seen)
    return torch.cat([rows, mask], dim=2)


def extend_positions(positions: Tensor, length: int) -> Tensor:
    """Return positions (..., L + length): positions of ``length`` tokens in front, and the old ones moved up."""
    front = torch.arange(length, device=positions.device, dtype=positions.dtype)
    return torch.cat([front.expand(*positions.shape[:-1], -1), positions + length], dim=-1)
