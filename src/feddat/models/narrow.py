"""Refuse or pad pictures that are too narrow for a model, in the same way for every model.

Some image processors detect the channel axis by its length, so they misread pictures of one to three rows. In addition,
each family has a ratio of sides from which it fails or has no patch left.
"""

from __future__ import annotations

import math

import numpy as np

from feddat.example import DataError
from feddat.pictures import Note, PictureReader, Pixels

#: Minimum side in pixels; image processors can take shorter sides for channels.
SMALLEST = 4
#: Maximum ratio of the sides. This is Qwen-VL's limit, and no meaningful picture exceeds it.
WIDEST = 200.0


def fitting(pixels: Pixels, name: str, widest: float, reader: PictureReader) -> Pixels:
    """Return a picture (H, W, 3) that fits a model; if settings allow it, narrow pictures are padded with white.

    Args:
        pixels: the picture, uint8 (H, W, 3).
        name: name of the picture for errors.
        widest: maximum ratio of sides (:class:`feddat.models.base.Encoder`).
        reader: reader whose settings apply and whose notes count the padding.

    Raises:
        DataError: the picture is too narrow, or has too many pixels after padding; the message names it.
    """
    height, width = pixels.shape[:2]
    # The smallest sides that fit, with some tolerance for the rounding of ratios.
    fit_height = max(height, SMALLEST, math.ceil(width / widest * (1 - 1e-12)))
    fit_width = max(width, SMALLEST, math.ceil(height / widest * (1 - 1e-12)))
    if (fit_height, fit_width) == (height, width):
        return pixels
    about = f"image {name}: {width} x {height} pixels are too narrow"
    if not reader.settings.pad:
        raise DataError(
            f"{about}: expected at least {SMALLEST} pixels a side, and neither side more than {widest:g} times the "
            "other; leave the picture out, or set pictures.pad=true, which pads it with white"
        )
    if fit_height * fit_width > reader.settings.max_pixels:
        raise DataError(f"{about}; padded to {fit_width} x {fit_height}, they are more than pictures.max_pixels allows")
    reader.notes.add(Note.PADDED)
    padded = np.full((fit_height, fit_width, 3), 255, np.uint8)
    top, left = (fit_height - height) // 2, (fit_width - width) // 2
    padded[top : top + height, left : left + width] = pixels
    return padded
