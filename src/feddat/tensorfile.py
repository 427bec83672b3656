"""Tensors in a safetensors file that is there completely or not at all; no second copy of them is made in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from feddat.files import whole_file


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    finish: Callable[[Path], None] = lambda temporary: None,
) -> None:
    """Write tensors and texts beside them.

    Args:
        path: the file.
        tensors: name -> tensor.
        metadata: the texts.
        finish: is given the file under a temporary name, before it gets its own.

    Raises:
        OSError: the file cannot be written; what was at ``path`` stays.
    """
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(content, temporary, metadata=dict(metadata))
        except SafetensorError as error:
            # It passes on what the system says as text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        finish(temporary)
