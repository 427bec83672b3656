"""Frozen linear layers that multiply in 8 bits, forward and for gradients, on CPUs that do so natively (VNNI).

Every row of activations, and of gradients, is rounded to whole numbers of −127 to 127 times a scale of its own (dynamic
quantization); the weight was rounded once, with one scale per output for the forward pass, and one per input, as the
transposed weight has them, for the backward pass. Sums are exact. Nothing depends on what else is in the batch. Weights
of the layer have no gradients, so that nothing is ever multiplied by rounded activations *and* rounded gradients.

Rounding both operands of these two products, with scales per row: Wortsman et al., "Stable and low-precision training
for large-scale vision-language models" (SwitchBack), NeurIPS 2023, arXiv 2304.13013.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Largest whole number that a value is rounded to.
_MOST = 127
#: Rows are shifted by this much: for signed ones, oneDNN may have reference code alone, thousands of times as slow.
_ZERO_POINT = 128
#: Rows for which oneDNN lays a weight out; products of other numbers of rows are as exact, and about as fast.
_ROWS = 512


class PackedWeight(NamedTuple):
    """A weight (out, in) in oneDNN's layout.

    Attributes:
        packed: whole numbers.
        scales: float32 (out,).
        zero_points: int64 (out,), all 0.
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor


class Int8ProductLinear(nn.Linear):
    """A frozen linear layer whose products, forward and backward, are of 8-bit numbers.

    The weight and bias stay as they are beside the rounded ones: mapped from their file, they are in memory no longer
    than they are read. Under autocast, activations and gradients leave the layer in autocast's dtype, otherwise in that
    of what enters.

    Args:
        linear: the layer that it stands for, on the CPU.

    Attributes:
        keeps_format: what leaves it without autocast has the dtype of what enters, whatever dtype the weight has.

    Raises:
        ValueError: the layer trains.
    """

    keeps_format = True

    def __init__(self, linear: nn.Linear) -> None:
        if any(parameter.requires_grad for parameter in linear.parameters()):
            raise ValueError("a layer whose products are of 8-bit numbers cannot train")
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._forward_weight = pack(self.weight)
        self._backward_weight: PackedWeight | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return x Wᵀ + b, (..., out), of x (..., in)."""
        product: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return product

    def product(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b without autograd."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return _multiply(x, self._forward_weight, self.bias, dtype)

    def gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient (..., in) of x, given that of :meth:`product` (..., out)."""
        if self._backward_weight is None:  # below the first adapter, nobody asks for it
            self._backward_weight = pack(self.weight.T)
        return _multiply(gradient, self._backward_weight, None, gradient.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8ProductLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.gradient(gradients[0]).to(ctx.dtype), None


def cannot_multiply(device: str) -> str | None:
    """Say why products of 8-bit numbers cannot be had on a device; ``None`` where they can."""
    kind = device.partition(":")[0]
    if kind != "cpu":
        return f"that is for CPUs, not for device {device}"
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer versions of torch have it
    # Without one of these, oneDNN adds pairs of products in 16 bits, which can overflow.
    if not any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return "this CPU multiplies no 8-bit numbers (AVX512-VNNI, AVX-VNNI or AMX), or torch is too old to tell"
    return None


def pack(weight: Tensor) -> PackedWeight:
    """Round a weight (out, in) with a scale per output, and lay it out for products."""
    wide = weight.detach().float()
    scales = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _MOST
    whole = (wide / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole.contiguous(), [_ROWS, whole.shape[1]])
    return PackedWeight(packed, scales, torch.zeros(len(scales), dtype=torch.int64))


def product_operator() -> Any:
    """Return oneDNN's product of 8-bit numbers, which torch does not have everywhere."""
    return torch.ops.onednn.qlinear_pointwise


def exact_product(shifted: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Return rows of whole numbers (N, in), uint8 and 128 too large, times a weight: (N, out), rounded to ``dtype``."""
    product: Tensor = product_operator()(shifted, 1.0, _ZERO_POINT, *weight, None, 1.0, 0, dtype, "none", [], "")
    return product


def _multiply(x: Tensor, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])
    wide = rows.float()  # which all that follows is quicker with
    most = torch.maximum(wide.amax(dim=1, keepdim=True), wide.amin(dim=1, keepdim=True).neg_())
    # A scale that the output's dtype holds exactly. The smallest keeps rows of zeros from being divided by 0.
    scales = (most / _MOST).clamp_(min=torch.finfo(dtype).tiny).to(dtype)
    inverse = scales.float().reciprocal()
    whole = (wide * inverse if wide is rows else wide.mul_(inverse)).round_().to(torch.int8)
    product = exact_product(whole.view(torch.uint8).bitwise_xor_(_ZERO_POINT), weight, dtype)
    scaled = product.mul_(scales) if bias is None else torch.addcmul(bias.detach().to(dtype), product, scales)
    return scaled.reshape(*x.shape[:-1], scaled.shape[1])
