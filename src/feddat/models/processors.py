"""Load the image processor of a model folder for its sizes and constants. torch, not the processor, resamples pixels.

torch's antialiased uint8 kernels are four times as fast as Pillow's. About one value in a hundred differs from Pillow's
by one of 256 levels (one in ten for portrait pictures that are made square).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL.Image import Resampling
from torch import Tensor

from feddat.models.base import ModelError
from feddat.models.folder import first_line, require_file

#: Possible files of the image processor in a folder.
FILES = ("preprocessor_config.json", "processor_config.json")
_MODES = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}


def load_processor(kind: Any, folder: Path, family: str) -> tuple[Any, str]:
    """Return a folder's image processor of class ``kind``, and torch's name of its resampling filter.

    Raises:
        ModelError: the processor is missing or unreadable, its constants are unusable, or torch does not support its
            resampling filter.
    """
    path = require_file(folder, FILES, "image processor")
    try:
        processor = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise ModelError(f"{path}: cannot be loaded as a {family} image processor: {first_line(error)}") from error
    if processor.resample not in _MODES:
        raise ModelError(f"{path}: resample {processor.resample}; expected 2 (bilinear) or 3 (bicubic)")
    check_constants(processor, path)
    return processor, _MODES[Resampling(processor.resample)]


def resize(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Return an image, uint8 (3, H, W), resized to ``size`` (height, width)."""
    if size == tuple(pixels.shape[1:]):
        return pixels.contiguous()
    # Decoded pictures are channels-last, which is the layout of the fast kernel.
    resized: Tensor = F.interpolate(pixels[None], size=size, mode=mode, antialias=True)[0]
    return resized.contiguous()


def check_constants(processor: Any, path: Path) -> None:
    """Check the constants with which an image processor rescales and normalises pixels.

    Raises:
        ModelError: a constant is no number or not allowed; the message names the file ``path``.
    """
    factor = processor.rescale_factor
    if processor.do_rescale and not (_is_number(factor) and factor > 0):
        raise ModelError(f"{path}: rescale_factor is {factor}; expected a number above 0")
    for key in ("image_mean", "image_std") if processor.do_normalize else ():
        value = getattr(processor, key)
        numbers = [value] * 3 if _is_number(value) else value
        if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_number, numbers)):
            raise ModelError(f"{path}: {key} is {value}; expected one number or three")
        if key == "image_std" and not all(number > 0 for number in numbers):
            raise ModelError(f"{path}: image_std is {value}; expected numbers above 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def normalisation(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation per channel with which a processor normalises pixels in [0, 1].

    They also account for a ``rescale_factor`` other than the usual 1/255, and for a processor that does not rescale. As
    in transformers, a single number counts for all channels.

    Args:
        processor: a processor that passed :func:`check_constants`.
    """
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    constants: tuple[Any, Any] = (0.0, 1.0)
    if processor.do_normalize:
        constants = processor.image_mean, processor.image_std
    mean, std = (tuple(part / factor for part in ([value] * 3 if _is_number(value) else value)) for value in constants)
    return mean, std
