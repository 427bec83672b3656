"""Frozen linear layers with 8-bit products, forward and for gradients, on CPUs with native support (VNNI).

Every row of activations or gradients is rounded to whole numbers from −127 to 127 times its own scale (dynamic
quantization). The weight is rounded once for the forward pass, with one scale per output, and once for the backward
pass, with one scale per input (the rows of the transposed weight). Sums are exact, and no row depends on the rest of
the batch. The layer's weights have no gradients, so rounded activations are never multiplied by rounded gradients.

Source for rounding both operands of these two products with scales per row: Wortsman et al., "Stable and low-precision
training for large-scale vision-language models" (SwitchBack), NeurIPS 2023, arXiv 2304.13013.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Largest whole number to which a value is rounded.
_MOST = 127
#: Shift of the rows to unsigned numbers: for signed ones, oneDNN can fall back to thousands of times slower code.
_ZERO_POINT = 128
#: Number of rows for which oneDNN lays out a weight; with other numbers, products are as exact and about as fast.
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
    """A frozen linear layer that multiplies 8-bit numbers, forward and backward.

    The original weight and bias are kept next to the rounded weight. If they are mapped from their file, they take up
    memory only while they are read. Outputs have autocast's dtype under autocast, otherwise the input's dtype. The
    gradient of the input has the input's dtype.

    Args:
        linear: the layer to replace, on the CPU.

    Attributes:
        keeps_format: without autocast, the output has the dtype of the input for any dtype of the weight.

    Raises:
        ValueError: the layer trains.
    """

    keeps_format = True

    def __init__(self, linear: nn.Linear) -> None:
        if any(parameter.requires_grad for parameter in linear.parameters()):
            raise ValueError("a layer with 8-bit products cannot train; freeze its parameters first")
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._forward_weight = pack(self.weight)
        self._backward_weight: PackedWeight | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return x Wᵀ + b, (..., out), for x (..., in)."""
        product: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return product

    def product(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b without autograd."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return _multiply(x, self._forward_weight, self.bias, dtype)

    def gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x (..., in), given the gradient of :meth:`product` (..., out)."""
        if self._backward_weight is None:  # layers below the first adapter never need it
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
    """Return why a device does not support 8-bit products, or ``None`` if it does."""
    kind = device.partition(":")[0]
    if kind != "cpu":
        return f"8-bit products need a CPU, not device {device}"
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer versions of torch have it
    # Without one of these, oneDNN adds pairs of products in 16 bits, which can overflow.
    if not any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return "this CPU has no 8-bit products (AVX512-VNNI, AVX-VNNI or AMX), or torch is too old to detect them"
    return None


def pack(weight: Tensor) -> PackedWeight:
    """Round a weight (out, in) with one scale per output and lay it out for oneDNN."""
    wide = weight.detach().float()
    scales = wide.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / _MOST
    whole = (wide / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole.contiguous(), [_ROWS, whole.shape[1]])
    return PackedWeight(packed, scales, torch.zeros(len(scales), dtype=torch.int64))


def product_operator() -> Any:
    """Return oneDNN's 8-bit product, which not every build of torch has."""
    return torch.ops.onednn.qlinear_pointwise


def exact_product(shifted: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Return the product of rows (N, in), uint8 shifted up by 128, and a weight: (N, out), rounded to ``dtype``."""
    product: Tensor = product_operator()(shifted, 1.0, _ZERO_POINT, *weight, None, 1.0, 0, dtype, "none", [], "")
    return product


def _multiply(x: Tensor, weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])
    wide = rows.float()  # the following operations are faster in float32
    most = torch.maximum(wide.amax(dim=1, keepdim=True), wide.amin(dim=1, keepdim=True).neg_())
    # The output's dtype holds the scale exactly. The minimum avoids a division by 0 for rows of zeros.
    scales = (most / _MOST).clamp_(min=torch.finfo(dtype).tiny).to(dtype)
    inverse = scales.float().reciprocal()
    whole = (wide * inverse if wide is rows else wide.mul_(inverse)).round_().to(torch.int8)
    product = exact_product(whole.view(torch.uint8).bitwise_xor_(_ZERO_POINT), weight, dtype)
    scaled = product.mul_(scales) if bias is None else torch.addcmul(bias.detach().to(dtype), product, scales)
    return scaled.reshape(*x.shape[:-1], scaled.shape[1])
