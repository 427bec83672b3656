"""Number formats of frozen weights. They store the model in fewer bits; everything that trains stays float32.

| ``weights`` | linear layers | other weights (norms, embeddings, vocabulary head) |
| --- | --- | --- |
| ``fp32`` | float32 | float32 |
| ``bf16`` | bfloat16 | bfloat16 |
| ``int8`` | rounded to 8 bits, one scale per output; activations are not rounded | bfloat16 on a GPU, else float32 |
| ``int4`` | NF4 (Dettmers et al., QLoRA, arXiv 2305.14314), one scale per 64 weights | as for ``int8`` |

Answers with ``int8`` and ``int4`` do not depend on the rest of the batch. They would if activations were rounded
together, or if outliers were searched across rows (LLM.int8, arXiv 2208.07339).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feddat.models.base import ModelError
from feddat.offline import offline

Format = Literal["fp32", "bf16", "int8", "int4"]


def rest_dtype(weights: Format, device: str) -> torch.dtype:
    """Return the dtype of activations, and of the weights that a format does not convert."""
    if weights == "fp32" or (weights != "bf16" and not device.startswith("cuda")):
        return torch.float32
    return torch.bfloat16


def convert_weights(model: nn.Module, weights: Format, device: str, kept: Collection[nn.Module] = ()) -> None:
    """Convert a model's linear layers to a number format and move the model to its device, in place.

    Args:
        model: model whose layers are replaced.
        weights: the format; for ``fp32`` and ``bf16`` the model was loaded in that format, and no layer is replaced.
        device: device of the model.
        kept: layers that are not replaced.

    Raises:
        ModelError: a library that the format needs is missing, or does not support the device.
    """
    if weights in ("int8", "int4"):
        make = Int8Linear if weights == "int8" else _four_bit
        linear = {
            name: module
            for name, module in model.named_modules()
            if type(module) is nn.Linear and not any(module is other for other in kept)
        }
        packed = {f"{name}.weight" for name in linear}
        # Copy the weights that stay: if they were memory-mapped, the whole file would stay mapped.
        for name, left in model.named_parameters():
            if name not in packed:
                left.data = left.data.clone()
        # Move each layer to its device, where it is packed, and release the original before the next one.
        for name in list(linear):
            model.set_submodule(name, _placed(make(linear.pop(name)), weights, device))
    _placed(model, weights, device)


def _placed(model: nn.Module, weights: Format, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ModelError(f"weights: {weights} is not available on {device}: {reason}") from error


class Int8Linear(nn.Linear):
    """A frozen linear layer with 8-bit weights: W ≈ q · s, with integers q from −127 to 127 and one scale s per output.

    The forward pass and the backward pass each expand the weights again, so that only one layer's expanded weights are
    in memory at a time.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        wide = linear.weight.detach().float()
        scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.weight = nn.Parameter((wide / scale).round_().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        product: Tensor = _Int8Product.apply(input, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Int8Product(torch.autograd.Function):
    """Product of x (..., in) and a weight that both passes expand and neither keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return x @ (weight * scale).to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return gradients[0] @ (weight * scale).to(gradients[0].dtype), None, None


def _four_bit(linear: nn.Linear) -> nn.Module:
    try:
        with offline():
            bitsandbytes: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ModelError("weights: int4 needs bitsandbytes; install feddat[quantize]") from error
    bias = linear.bias is not None
    made: Any = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=bias, compute_dtype=linear.weight.dtype, quant_type="nf4"
    )
    made.weight = bitsandbytes.nn.Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4", module=made)
    made.bias = linear.bias
    # On CPUs with AVX512-BF16, the first inference would repack the weights in place, with scales rounded to bfloat16.
    # Later training would then use a different model, and rows whose width is no multiple of 64 would fail.
    made.support_avx512bf16_for_cpu = False
    layer: nn.Module = made
    return layer
