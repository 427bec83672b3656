"""Read the arrays of a message without trusting them: check dtype, shape and number of bytes before using them.

An array travels as bytes in NumPy's format 1.0. NumPy's own reader evaluates the header as Python, and treats any other
input as an archive or a pickle. This reader accepts a header only if it matches, character for character, what NumPy
writes for a plain array. The values are a view of the bytes that have already arrived, so no header can make this
process allocate memory.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from flwr.app import Array
from flwr.common.constant import SType
from numpy.typing import NDArray

#: The first bytes of NumPy's format 1.0; the header's length follows in two bytes.
_MAGIC = b"\x93NUMPY\x01\x00"
_BEGIN = len(_MAGIC) + 2
#: The longest header, in bytes. NumPy writes 118 for an array with six dimensions.
_MOST_HEADER = 1024
#: The largest number of dimensions of an array.
_MOST_DIMENSIONS = 8
_HEADER = re.compile(
    rb"\{'descr': '([<|])([fiub])(\d{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18}(?:, \d{1,18})*,?)?)\), \} *\n"
)


class ArrayError(ValueError):
    """The bytes do not hold the expected array; the message says why."""


def read_array(array: Array, dtype: np.dtype[Any] | None = None, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Return an array of a message as a read-only view of its bytes.

    Args:
        array: the array as received.
        dtype: the expected dtype; default: any integer or floating-point type.
        shape: the expected shape; default: any.

    Raises:
        ArrayError: it is not a plain array of this dtype and shape.
    """
    if array.stype != SType.NUMPY:
        raise ArrayError(f"cannot be read: serialised as {str(array.stype)[:40]!r}, expected {str(SType.NUMPY)!r}")
    data = array.data
    found, in_columns, dimensions, begin = _header(data)
    if (dtype is not None and found != dtype) or (shape is not None and dimensions != tuple(shape)):
        raise ArrayError(f"is {found}{dimensions}, expected {found if dtype is None else dtype}{tuple(shape or ())}")
    count = math.prod(dimensions)  # can be of any size: Python's integers do not overflow
    if len(data) - begin != count * found.itemsize:
        size = count * found.itemsize
        raise ArrayError(f"cannot be read: it has {len(data) - begin} bytes of values, expected {size}")
    if not count:
        return np.empty(dimensions, found)
    return np.frombuffer(data, found, count, begin).reshape(dimensions, order="F" if in_columns else "C")


def _header(data: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Return the dtype, whether the order is Fortran's, the shape, and the offset of the values."""
    if data[: len(_MAGIC)] != _MAGIC or len(data) < _BEGIN:
        raise ArrayError("cannot be read: not in NumPy's format 1.0")
    length = int.from_bytes(data[len(_MAGIC) : _BEGIN], "little")
    if length > _MOST_HEADER or _BEGIN + length > len(data):
        most = min(_MOST_HEADER, len(data) - _BEGIN)
        raise ArrayError(f"cannot be read: it has a header of {length} bytes, expected at most {most}")
    match = _HEADER.fullmatch(data, _BEGIN, _BEGIN + length)
    if match is None:
        raise ArrayError("cannot be read: its header does not describe a plain array of numbers")
    order, kind, size, in_columns, sizes = match.groups()
    try:
        dtype = np.dtype((order + kind + size).decode())
    except TypeError:
        raise ArrayError(f"cannot be read: there are no numbers of {int(size)} bytes") from None
    shape = tuple(int(text) for text in sizes.split(b",") if text.strip())
    if len(shape) > _MOST_DIMENSIONS:
        raise ArrayError(f"cannot be read: it has {len(shape)} dimensions, expected at most {_MOST_DIMENSIONS}")
    return dtype, in_columns == b"True", shape, _BEGIN + length
