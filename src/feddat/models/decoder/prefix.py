"""Prompts that a decoder-only model reads once, kept as keys and values for any number of answers.

This is transformers' key-value cache in two halves. Reading a prompt fills the first half. Answering reads it without
adding to it, so one prompt serves all answers to its question, also in training with gradients. Neither half changes
when a layer is computed again, as in gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class ReadingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Cache layer that keeps the first keys and values (N, heads, P, d / heads) of a layer."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the given keys and values, and keep them on the first call."""
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


class AnsweringLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Cache layer that prepends a prompt's keys and values to those of an answer. It selects rows as late as possible.

    Args:
        keys: keys of the prompts (N, heads, P, d / heads).
        values: values of the prompts (N, heads, P, d / heads).
        index: prompt of each answer, (M,).
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
    """M prompts for M answers, selected from N that were read (:class:`feddat.models.generative.ReadQuestions`).

    Attributes:
        layers: keys and values per layer, (N, heads, P, d / heads).
        last: state of each prompt's last token, (N, 1, d), which predicts the first token of the answer.
        mask: mask (N, P), bool, true where a prompt has a token; padding comes last.
        following: position of the token after each prompt, (N,).
        index: index of each of the M prompts in the N, (M,).
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
        """Return their device."""
        return self.last.device

    def rows(self, index: Tensor) -> Prefixes:
        """Return the prompts at ``index``, in that order; an index can repeat. Nothing is copied."""
        return replace(self, index=self.index[index])

    def cache(self) -> Cache:
        """Return a cache for M answers."""
        return Cache(layers=[AnsweringLayer(keys, values, self.index) for keys, values in self.layers])

    def attention(self, answers: Tensor, window: int | None = None) -> Tensor:
        """Return the attention mask of M answers, (M, 1, L, P + L), bool, true where a token attends.

        A token attends to its prompt, to the earlier tokens of its answer, and to itself.

        Args:
            answers: mask (M, L), bool, true where an answer has a token.
            window: number of most recent tokens, including itself, to which a token attends; ``None`` for all.
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
