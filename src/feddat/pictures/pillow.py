"""Decode pictures that Pillow has opened, completely or partially, and copy their pixels out strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image as PILImage
from PIL.ImageFile import ImageFile

from feddat.picture_settings import PictureSettings
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels, UnreadableError, reason

#: Maximum number of pixels converted at a time, because Pillow needs four bytes for each and converting needs more.
STRIP = 1 << 20


def load(picture: ImageFile, settings: PictureSettings, notes: Notes) -> None:
    """Decode a picture that Pillow has opened; if ``settings.truncated`` is set, accept an incomplete one.

    Raises:
        UnreadableError: the picture is damaged or truncated.
    """
    try:
        picture.load()
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        if settings.truncated and _shows_something(picture):
            notes.add(Note.INCOMPLETE)
            return
        way = "; pictures.truncated=true reads the part that exists" if "truncated" in str(error) else ""
        raise UnreadableError(f"cannot be decoded ({reason(error)}){way}") from None


def strips(height: int, width: int) -> Iterator[slice]:
    """Yield slices of a picture's rows with at most :data:`STRIP` pixels each, but at least one row."""
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def pixels_of(
    picture: PILImage.Image, to_rgb: Callable[[PILImage.Image], PILImage.Image] = lambda strip: strip.convert("RGB")
) -> Pixels:
    """Return the pixels of a decoded picture, converted to RGB strip by strip."""
    width, height = picture.size
    if width * height <= STRIP:
        return np.array(to_rgb(picture))
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
        pixels[rows] = np.asarray(to_rgb(picture.crop((0, rows.start, width, rows.stop))))
    return pixels


def _shows_something(picture: ImageFile) -> bool:
    """Return whether a decoder wrote anything into the picture's memory, which starts black, before it failed."""
    picture.tile = []  # no more decoding
    try:
        picture.load()
        return picture.getbbox() is not None
    except Exception:  # the picture has no memory yet
        return False
