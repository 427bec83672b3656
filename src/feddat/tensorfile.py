"""Read a safetensors file; write one atomically, without a second copy of its tensors in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from feddat.files import whole_file


class TensorFileError(ValueError):
    """A safetensors file is missing or damaged; the message names it."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file by name, on the CPU.

    Raises:
        TensorFileError: the file cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TensorFileError(f"{path}: cannot be read: {error}") from error


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    finish: Callable[[Path], None] = lambda temporary: None,
) -> None:
    """Write tensors and metadata.

    Args:
        path: the file.
        tensors: name -> tensor.
        metadata: key -> text.
        finish: called with the temporary path of the complete file, before it gets its final name.

    Raises:
        OSError: the file cannot be written; an existing file at ``path`` stays.
    """
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(content, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            # The error holds the system's error only as text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        finish(temporary)
