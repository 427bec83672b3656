"""The number format of matrix products on a device; ``auto`` means the fastest safe one.

| ``precision`` | products of frozen layers | other products | what trains, sums, norms |
| --- | --- | --- | --- |
| ``fp32`` | float32 | float32 | float32 |
| ``bf16`` | bfloat16 | bfloat16 | float32 |
| ``int8`` | 8-bit integers (:mod:`feddat.adapters.int8_products`) | as with ``auto`` | float32 |

With ``bf16`` on a GPU, ViLT's hidden states between layers are bfloat16, too (:mod:`feddat.models.vilt.block`).
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16", "int8"]
#: Precisions in which the whole model can train.
TrainingPrecision = Literal["auto", "fp32", "bf16"]
Resolved = Literal["fp32", "bf16", "int8"]


def resolve_precision(precision: Precision, device: str = "cpu") -> Resolved:
    """Return the meaning of ``auto`` on a device; return any other precision unchanged.

    ``auto`` is bfloat16 if the device multiplies natively in it. A CPU without AVX-512 (or AMX, or ARM's extension)
    takes ten times as long in bfloat16 as in float32; a CPU with it takes half as long.
    """
    if precision != "auto":
        return precision
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return "bf16" if native else "fp32"


def autocasts(precision: str, device: str) -> bool:
    """Return whether forward passes in a precision run under bfloat16 autocast."""
    return precision == "bf16" or (precision == "int8" and resolve_precision("auto", device) == "bf16")
