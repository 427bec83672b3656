"""Scaled-dot-product attention whose bfloat16 backward pass is also fast on CPUs.

For that pass, torch's kernel takes 3 to 6 times as long as two matrix products and a softmax (torch 2.13, 30 to 260
tokens; in float32 both are equally fast). ViLT calls :func:`attention` directly. All other families use transformers'
``sdpa``, which :func:`use_in_transformers` redirects here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

#: Number of tokens from which fewer passes over the scores outweigh the cost of a backward pass in Python.
_LONG = 64


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Return the same as ``scaled_dot_product_attention``, (N, heads, Q, d / heads).

    Args:
        query: queries (N, heads, Q, d / heads).
        key: keys (N, heads, tokens, d / heads).
        value: values (N, heads, tokens, d / heads).
        mask: mask that broadcasts to (N, heads, Q, tokens); bool, true where to attend, or float, added to the scores.
        dropout: dropout rate of the weights.
        scale: scale of the scores; default: 1 / √(d / heads).
    """
    if not _slow(query):
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    if dropout or key.shape[-2] < _LONG:
        return _eager_attention(query, key, value, mask, dropout)
    attended: Tensor = _LongAttention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
    return attended


def use_in_transformers() -> None:
    """Make transformers' ``sdpa`` train through :func:`attention` in this process; a second call changes nothing."""
    AttentionInterface.register("sdpa", _interface)


def _interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    known = (
        (not causal or attention_mask is not None or query.shape[2] == 1)
        and getattr(module, "num_key_value_groups", 1) == 1
        and all(kwargs.get(name) is None for name in ("position_bias", "softcap"))
    )
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if not (known and trains and _slow(query)):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return found
    return attention(query, key, value, attention_mask, dropout, scaling).transpose(1, 2).contiguous(), None


def _slow(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype == torch.bfloat16


def _eager_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Return the context of queries that are already scaled."""
    return F.dropout(_attention_weights(query, key, mask), dropout) @ value


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Return the weights (N, heads, Q, tokens) of queries that are already scaled."""
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    # In float32: more exact and, on CPUs, 2.7 times as fast as torch's bfloat16 softmax, including the casts.
    return scores.float().softmax(dim=-1).to(query.dtype)


class _LongAttention(torch.autograd.Function):
    """:func:`_eager_attention` whose backward pass uses the rounded weights of the forward pass.

    With 157 tokens in bfloat16, forward and backward together are 1.3 times as fast and keep a third of the memory.
    Autograd would also keep the softmax's float32 output, and would cast the gradient to float32 and back.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        weights = _attention_weights(query, key, mask)
        ctx.save_for_backward(query, key, value, weights)
        return weights @ value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights = ctx.saved_tensors
        (gradient,) = gradients
        # The mask is not needed here: a masked weight is 0, and so is the gradient of its score.
        of_scores = torch._softmax_backward_data(gradient @ value.transpose(-1, -2), weights, -1, weights.dtype)
        return (
            of_scores @ key,
            of_scores.transpose(-1, -2) @ query,
            weights.transpose(-1, -2) @ gradient,
            None,
        )
