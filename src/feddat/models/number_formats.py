"""The number format of frozen weights: fewer bits hold the same model, while all that trains stays float32.

| ``weights`` | linear layers | the rest (norms, embeddings, vocabulary head) |
| --- | --- | --- |
| ``fp32`` | float32 | float32 |
| ``bf16`` | bfloat16 | bfloat16 |
| ``int8`` | one scale per output, rounded to 8 bits; activations are not rounded | bfloat16 on a GPU, else float32 |
| ``int4`` | NF4 (Dettmers et al., QLoRA, arXiv 2305.14314), 64 weights a scale | as for ``int8`` |

Answers under ``int8`` and ``int4`` do not depend on what else is in the batch, as they would where activations are
rounded together or outliers are looked for across rows (LLM.int8, arXiv 2208.07339).
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
    """Return the dtype of what a format leaves alone, and of activations."""
    if weights == "fp32" or (weights != "bf16" and not device.startswith("cuda")):
        return torch.float32
    return torch.bfloat16


def convert_weights(model: nn.Module, weights: Format, device: str, kept: Collection[nn.Module] = ()) -> None:
    """Put a model on its device and its linear layers into a format, in place.

    Args:
        model: of which layers are replaced.
        weights: the format; ``fp32`` and ``bf16`` are what the model was loaded in, and replace nothing.
        device: where the model goes.
        kept: layers to leave alone.

    Raises:
        ModelError: a library that the format needs is missing, or cannot do it here.
    """
    if weights in ("int8", "int4"):
        make = Int8Linear if weights == "int8" else _four_bit
        linear = {
            name: module
            for name, module in model.named_modules()
            if type(module) is nn.Linear and not any(module is other for other in kept)
        }
        packed = {f"{name}.weight" for name in linear}
        # What stays as it is may lie in the mapped file, which would stay mapped whole.
        for name, left in model.named_parameters():
            if name not in packed:
                left.data = left.data.clone()
        # Each on its device at once, where it is packed, and the wide one let go before the next is.
        for name in list(linear):
            model.set_submodule(name, _placed(make(linear.pop(name)), weights, device))
    _placed(model, weights, device)


def _placed(model: nn.Module, weights: Format, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ModelError(f"weights: {weights} cannot be had on {device}: {reason}") from error


class Int8Linear(nn.Linear):
    """A frozen linear layer with 8-bit weights: W ≈ q · s, q whole numbers of −127 to 127, s one scale per output.

    Weights are multiplied out where they are used, for the pass back again, so that never two layers' worth of them is
    in memory.
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
    """x (..., in) times a weight that is written out twice, and never kept."""

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
    # On CPUs with AVX512-BF16 the first answer would repack the weights in place, with scales rounded to bfloat16:
    # what is trained afterwards would be another model, and rows that are no multiple of 64 wide fail.
    made.support_avx512bf16_for_cpu = False
    layer: nn.Module = made
    return layer
