"""Pictures that are too narrow for a model: refused with the same words whatever the model, or padded.

Image processors tell channels from rows by their number, so pictures of one to three rows mean something else to some
of them, and each family has a ratio of sides from which it fails or has no patch left.
"""

from __future__ import annotations

import math

import numpy as np

from feddat.example import DataError
from feddat.pictures import Note, PictureReader, Pixels

#: Sides of fewer pixels may be taken for channels.
SMALLEST = 4
#: No side may be longer than so many times the other; Qwen-VL's limit, which no picture worth asking about exceeds.
WIDEST = 200.0


def fitting(pixels: Pixels, name: str, widest: float, reader: PictureReader) -> Pixels:
    """Return a picture (H, W, 3) that a model takes: as it is, or with white beside it if the settings say so.

    Args:
        pixels: the picture.
        name: of it, for errors.
        widest: see :class:`feddat.models.base.Encoder`.
        reader: whose settings count, and whose notes are added to.

    Raises:
        DataError: it is too narrow, or padded it has too many pixels; names it.
    """
    height, width = pixels.shape[:2]
    # The smallest sides that will do; a little is left for the rounding of ratios.
    fit_height = max(height, SMALLEST, math.ceil(width / widest * (1 - 1e-12)))
    fit_width = max(width, SMALLEST, math.ceil(height / widest * (1 - 1e-12)))
    if (fit_height, fit_width) == (height, width):
        return pixels
    about = f"image {name}: {width} x {height} pixels are too narrow"
    if not reader.settings.pad:
        raise DataError(
            f"{about}: expected at least {SMALLEST} a side, and neither side more than {widest:g} times the other; "
            "leave it out, or set pictures.pad=true, which puts white beside it"
        )
    if fit_height * fit_width > reader.settings.max_pixels:
        raise DataError(f"{about}, and padded to {fit_width} x {fit_height} more than pictures.max_pixels allows")
    reader.notes.add(Note.PADDED)
    padded = np.full((fit_height, fit_width, 3), 255, np.uint8)
    top, left = (fit_height - height) // 2, (fit_width - width) // 2
    padded[top : top + height, left : left + width] = pixels
    return padded
