"""How tokens enter a stack of transformer layers, and leave it again, by hooks on the stack.

PEFT's own prompt tuning puts its tokens in front of the word embeddings, before their positions are added, and leaves
them in the output: ViLT and BERT would pool a prompt instead of [CLS], and images would get none. Here the tokens enter
where the transformer layers begin, and are taken off where these end.
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
        around: the module that the stack is in; of several inputs it has the types.
        inputs: number of inputs that prompts are put beside.
        causal: whether a token sees only those before it.
        active: returns the prompts to enter, one per input; ``None``: none do.
    """

    def __init__(
        self, stack: Any, around: Any, inputs: int, causal: bool, active: Callable[[], Iterable[nn.Module] | None]
    ) -> None:
        self._types: nn.Embedding | None = around.embeddings.token_type_embeddings if inputs > 1 else None
        self._causal = causal
        self._active = active
        self._length = 0  # of what has entered
        self._hooks = [
            stack.register_forward_pre_hook(self._enter, with_kwargs=True),
            stack.register_forward_hook(self._leave),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _front(self, prompts: Iterable[nn.Module]) -> Tensor:
        """Return the tokens to enter, (length, d), each with its input's type embedding."""
        tokens = [prompt() for prompt in prompts]
        if self._types is not None:
            tokens = [token + kind for token, kind in zip(tokens, self._types.weight, strict=False)]
        return torch.cat(tokens)

    def _enter(self, stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Put the tokens in front of what enters the transformer layers, and let its mask and positions follow."""
        self._length = 0
        prompts = self._active()
        if prompts is None:
            return None
        given = {key: value for key, value in kwargs.items() if value is not None}
        cache = given.get("cache")
        if cache is not None and (seen := cache.get_seq_length()):
            # The cache has seen them already: its tokens, with them, are for the mask to name.
            if _keys(given.get("attention_mask")) <= seen:
                raise ValueError(
                    "soft prompts cannot go on from a filled cache without a 4-D mask over all that is in it"
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
                if isinstance(mask, dict)  # one for each kind of layer
                else self._extended(mask)
            )
        if "visual_pos_masks" in given:  # where Qwen3-VL adds pictures again, between its layers
            given["visual_pos_masks"] = functional.pad(given["visual_pos_masks"], (self._length, 0), value=False)
        if "position_ids" in given:
            given["position_ids"] = extend_positions(given["position_ids"], self._length)
        return args, given

    def _leave(self, stack: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Take the tokens off what leaves the transformer layers."""
        if not self._length:
            return None
        if isinstance(output, tuple):
            return output[0][:, self._length :], *output[1:]
        output.last_hidden_state = output.last_hidden_state[:, self._length :]
        return output

    def _extended(self, mask: Tensor) -> Tensor:
        return extend_mask(mask, self._length, self._causal)


def _keys(mask: Any) -> int:
    """Return over how many tokens a 4-D mask is, or the first of several; 0: there is none."""
    mask = next(iter(mask.values())) if isinstance(mask, dict) else mask
    return int(mask.shape[-1]) if isinstance(mask, Tensor) and mask.dim() == 4 else 0


def extend_mask(mask: Tensor, length: int, causal: bool) -> Tensor:
    """Return an attention mask with ``length`` more tokens in front, which every other token sees.

    Args:
        mask: (N, L), not zero where a token is; or (N, 1, Q, L), which tokens position q sees: true where it does, or a
            number that is added to the scores.
        length: number of tokens.
        causal: whether each of them sees only those before it, rather than all that the first position sees.
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
    """Return positions (..., L) moved on by ``length``, with those of as many tokens in front."""
    front = torch.arange(length, device=positions.device, dtype=positions.dtype)
    return torch.cat([front.expand(*positions.shape[:-1], -1), positions + length], dim=-1)
