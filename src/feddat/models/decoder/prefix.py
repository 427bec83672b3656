"""Questions that a decoder-only model has read once: the keys and values of their prompts, for any number of answers.

The key-value cache of transformers, in two halves. Reading fills one; answering reads it and adds nothing to it, so
that one prompt serves every answer to its question, in training with gradients too. Neither half changes when a layer
is computed a second time, as gradient checkpointing does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class ReadingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keeps a layer's keys and values (N, heads, P, d / heads) as they first come."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Keep them, unless this is the second time, and return them."""
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


class AnsweringLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Puts what was read in front of an answer's keys and values; rows are picked as late as possible.

    Args:
        keys: (N, heads, P, d / heads).
        values: likewise.
        index: question of each answer, (M,).
    """

    def __init__(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True
        self._read = keys, values
        self._index = index

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return keys and values (M, heads, P + L, d / heads) of prompts and answers."""
        keys, values = (part.index_select(0, self._index) for part in self._read)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """M prompts that answers follow, of N that were read (:class:`feddat.models.generative.ReadQuestions`).

    Attributes:
        layers: keys and values per layer, (N, heads, P, d / heads).
        last: the state of each prompt's last token, which predicts the first of the answer, (N, 1, d).
        mask: (N, P) bool, true where a prompt has a token; padding comes last.
        following: position of the token after each prompt, (N,).
        index: which of the N, (M,).
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    last: Tensor
    mask: Tensor
    following: Tensor
    index: Tensor

    def __len__(self) -> int:
        """Return M."""
        return len(self.index)

    @property
    def device(self) -> torch.device:
        """Return where they are."""
        return self.last.device

    def rows(self, index: Tensor) -> Prefixes:
        """Return the prompts at ``index``, in that order, again where one is named again; nothing is copied."""
        return replace(self, index=self.index[index])

    def cache(self) -> Cache:
        """Return a cache for M answers."""
        return Cache(layers=[AnsweringLayer(keys, values, self.index) for keys, values in self.layers])

    def attention(self, answers: Tensor, window: int | None = None) -> Tensor:
        """Return where the tokens of M answers look, (M, 1, L, P + L) bool: their prompt, and what stands before.

        Args:
            answers: (M, L) bool, true where an answer has a token.
            window: how many tokens, its own among them, a token looks back; ``None``: all.
        """
        prompts, length = self.mask[self.index], answers.shape[1]
        steps = torch.arange(length, device=answers.device)
        own = (steps[:, None] >= steps) & answers[:, None, :]
        seen = torch.cat([prompts[:, None, :].expand(-1, length, -1), own], dim=-1)
        if window is not None:
            lengths = prompts.sum(dim=1, keepdim=True)
            places = torch.cat([torch.arange(prompts.shape[1], device=answers.device).expand_as(prompts),
                                lengths + steps], dim=1)  # fmt: skip
            seen = seen & (lengths[:, :, None] + steps[None, :, None] - places[:, None, :] < window)
        return seen[:, None]
