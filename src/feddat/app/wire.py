"""How the shared adapter travels: in fp32, or packed into two bytes or one; whole, or as a difference.

| format | a number is | error of one number |
| --- | --- | --- |
| fp32 | four bytes | none |
| fp16 | two bytes; refused beyond ±65504 | 2⁻¹¹ of it, 2⁻²⁵ near 0 |
| bf16 | two bytes, sent as uint16: Flower has no such dtype | 2⁻⁸ of it |
| int8 | one byte, times the scale of its row (largest magnitude / 127) | half the scale |

Rows run along the first dimension; a vector or a single number is one row. The rounding error of int8 is not lost: the
sender keeps the residual and adds it to the next message (error feedback: Seide et al., Interspeech 2014; Karimireddy
et al., ICML 2019, arXiv 1901.09847). The sum of what arrives therefore follows the sum of what was meant to within a
quantum.

Unpacking and packing again changes nothing, to the last bit. The server relies on this: it packs each new global
adapter once (:func:`settle`) and uses the unpacked result from then on, for clients, rules and checkpoints. So a
difference has the same base on both sides. Only clients send differences. The server cannot, since it does not know
which global adapter a client has: a client can miss rounds or lose its disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.config import WireConfig

#: The arrays of a message.
Packed: TypeAlias = dict[str, NDArray[Any]]
#: Key of int8's scales, float32 (rows of all arrays,), in the order of the arrays; no adapter key has a slash.
SCALES = "wire/scales"
#: Format -> dtype of an array in the message.
_DTYPES: dict[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "int8": np.int8}
_LEVELS = 127
#: Significant bits of a scale. With the 7 bits of a level they make 23, so float32 holds every product exactly.
_SCALE_BITS = 16
#: The smallest scale other than 0, so that no product is a subnormal number.
_LEAST_SCALE = 2.0**-110


class WireError(ValueError):
    """Numbers cannot travel in this format; the message names the array."""


def layout(shapes: Shapes, config: WireConfig) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return the dtype and shape of every array in a message, given the shapes of the tensors."""
    arrays = {key: (np.dtype(_DTYPES[config.format]), tuple(shape)) for key, shape in shapes.items()}
    if config.format == "int8" and shapes:
        arrays[SCALES] = np.dtype(np.float32), (sum(map(_rows, shapes.values())),)
    return arrays


def pack(
    state: Mapping[str, Tensor],
    config: WireConfig,
    base: Mapping[str, Tensor] | None = None,
    residual: Mapping[str, Tensor] | None = None,
) -> tuple[Packed, dict[str, Tensor]]:
    """Return tensors as arrays of a message, and the residual for the next message.

    Args:
        state: the tensors to send, floating point, on any device.
        config: the format.
        base: float32 CPU tensors of the same shapes, subtracted first; for the differences of ``config.delta``.
        residual: the residual of the last message, float32 CPU tensors; only for int8, empty for other formats.

    Raises:
        WireError: a number is NaN, infinite or too large. Not raised for fp32, where the receiver refuses such numbers.
    """
    arrays: Packed = {}
    scales: list[NDArray[np.float32]] = []
    left: dict[str, Tensor] = {}
    for key, tensor in state.items():
        value = tensor.detach().to("cpu", torch.float32).contiguous()
        if base is not None:
            value = value - base[key]
        if config.format == "fp32":
            arrays[key] = value.numpy()
            continue
        if not value.isfinite().all():
            raise WireError(f"array {key} has NaN or infinite values")
        if config.format != "int8":
            arrays[key] = _narrow(key, value, config.format)
            continue
        value = value if not residual else value + residual[key]
        arrays[key], scale = _quantise(key, value.numpy())
        scales.append(scale)
        left[key] = value - torch.from_numpy(_product(arrays[key], scale))
    if scales:
        arrays[SCALES] = np.concatenate(scales)
    return arrays, left


def unpack(
    arrays: Mapping[str, NDArray[Any]], config: WireConfig, base: Mapping[str, Tensor] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return the input of :func:`pack`, up to the format's error, as float32 arrays.

    If nothing has to be computed, return the arrays themselves.

    Args:
        arrays: arrays that match :func:`layout`; the caller must have refused others.
        config: the format.
        base: the tensors that the sender subtracted, to add again.
    """
    values: dict[str, NDArray[np.float32]] = {}
    row = 0
    for key, array in arrays.items():
        if key == SCALES:
            continue
        if config.format == "int8":
            rows = _rows(array.shape)
            value = _product(array, arrays[SCALES][row : row + rows])
            row += rows
        else:
            value = _widen(array, config.format)
        values[key] = value if base is None else np.asarray(value + base[key].numpy())
    return values


def settle(
    state: Mapping[str, Tensor], config: WireConfig, residual: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the global adapter as clients will receive it, and the residual for the next one.

    Args:
        state: the new global adapter.
        config: the format; the adapter goes out whole, not as a difference.
        residual: the residual of the last one.

    Raises:
        WireError: a number does not fit the format.
    """
    if config.format == "fp32":
        return {key: value.detach().to("cpu", torch.float32) for key, value in state.items()}, {}
    packed, left = pack(state, config, residual=residual)
    return {key: torch.from_numpy(value) for key, value in unpack(packed, config).items()}, left


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _narrow(key: str, value: Tensor, format: str) -> NDArray[Any]:
    narrow = value.to({"fp16": torch.float16, "bf16": torch.bfloat16}[format])
    if not narrow.isfinite().all():
        largest = torch.finfo(narrow.dtype).max
        raise WireError(
            f"array {key} has a value of magnitude {value.abs().max():g}, beyond the largest of {format}, {largest:g}"
        )
    # The view is signed because torch supports uint16 only in part.
    return narrow.numpy() if format == "fp16" else narrow.view(torch.int16).numpy().view(np.uint16)


def _widen(array: NDArray[Any], format: str) -> NDArray[np.float32]:
    if format == "bf16":
        return np.asarray(array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32, copy=False)


def _quantise(key: str, value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the levels, int8 of the value's shape, and the scales of its rows, float32 (rows,)."""
    table = _table(value).astype(np.float64)
    mantissa, exponent = np.frexp(np.abs(table).max(axis=1, initial=0.0) / _LEVELS)
    # Round up, so that no level exceeds 127.
    scale = np.ldexp(np.ceil(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    scale = np.where(scale > 0, np.maximum(scale, _LEAST_SCALE), 0.0)
    if (scale * _LEVELS > np.finfo(np.float32).max).any():
        raise WireError(f"array {key} has a value of magnitude {np.abs(table).max():g}, too large for a scale of int8")
    levels = np.rint(table / np.where(scale > 0, scale, 1.0)[:, None])
    return levels.astype(np.int8).reshape(value.shape), scale.astype(np.float32)


def _product(levels: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the levels times the scales of their rows; exact, see :data:`_SCALE_BITS`."""
    return (_table(levels).astype(np.float32) * scale[:, None]).reshape(levels.shape)


def _table(array: NDArray[Any]) -> NDArray[Any]:
    rows = _rows(array.shape)
    return array.reshape(rows, array.size // rows if rows else 0)
