"""Tensors in and out of Flower's records, and the size of a message."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import recorddict_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Shapes
from feddat.app import wire as wires
from feddat.app.arrays import read_array
from feddat.app.messages.records import marked
from feddat.config import WireConfig
from feddat.phases import phase


@phase("messages")
def wire_size(message: Message) -> int:
    """Return the serialised size of a message's content in bytes, without the envelope (ids, time stamps).

    The size is computed, not measured: Flower's protocol buffers would hold a second copy of the arrays, and they
    cannot hold more than 2 GiB.
    """
    if not message.has_content():
        return 0
    size = 0
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            items = sum(_field(_field(len(name.encode())) + _field(_array_size(a))) for name, a in record.items())
            size += _field(_field(len(key.encode())) + _field(items))
        else:
            size += int(recorddict_to_proto(RecordDict({key: record})).ByteSize())
    return size


def _array_size(array: Array) -> int:
    size = int(ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype).ByteSize())
    return size + (_field(len(array.data)) if array.data else 0)


def _field(length: int) -> int:
    """Return the size in bytes of a protocol buffer field: tag, length (7 bits a byte), ``length`` bytes of content."""
    return 1 + max(1, (length.bit_length() + 6) // 7) + length


def most_bytes(shapes: Shapes, extra_shapes: Shapes, wire: WireConfig) -> int:
    """Return the most bytes that a client's reply may have: its arrays, and a generous allowance for the rest."""
    arrays = wires.layout(shapes, wire) | wires.layout(marked(extra_shapes), WireConfig())
    return sum(dtype.itemsize * math.prod(shape) + 4096 for dtype, shape in arrays.values()) + 2**20


@phase("messages")
def to_arrays(state: Mapping[str, Tensor | NDArray[Any]]) -> ArrayRecord:
    """Return an ArrayRecord in the given order: tensors become float32 arrays, arrays stay as they are."""
    return ArrayRecord(
        {
            key: to_array(
                value.detach().to("cpu", torch.float32).contiguous().numpy() if isinstance(value, Tensor) else value
            )
            for key, value in state.items()
        }
    )


def to_array(value: NDArray[Any]) -> Array:
    """Do what ``Array(value)`` does, but copy the bytes once; Flower holds three copies while it builds an array."""
    value = np.require(value, requirements="C")
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    data = b"".join((header.getvalue(), value.reshape(-1).view(np.uint8).data))
    return Array(str(value.dtype), tuple(value.shape), SType.NUMPY, data)


@phase("messages")
def to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return an ArrayRecord's arrays as tensors: read-only views of its bytes."""
    return {key: as_tensor(read_array(array)) for key, array in record.items()}


def as_tensor(value: NDArray[Any]) -> Tensor:
    """Return a tensor that shares an array's memory; do not write to it if the array is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(value)
