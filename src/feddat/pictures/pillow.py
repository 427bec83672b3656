"""What Pillow has opened, decoded: as a whole, as far as it goes, and out of Pillow's memory piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image as PILImage
from PIL.ImageFile import ImageFile

from feddat.picture_settings import PictureSettings
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels, UnreadableError, reason

#: Pixels that are converted at a time: Pillow keeps four bytes of each, and converting makes more.
STRIP = 1 << 20


def load(picture: ImageFile, settings: PictureSettings, notes: Notes) -> None:
    """Decode a picture that Pillow has opened, whole or, if settings say so, as far as it goes.

    Raises:
        UnreadableError: it is damaged, or cut short.
    """
    try:
        picture.load()
    except Exception as error:  # Pillow raises many kinds for damaged files
        if settings.truncated and _shows_something(picture):
            notes.add(Note.INCOMPLETE)
            return
        way = "; pictures.truncated=true reads what there is" if "truncated" in str(error) else ""
        raise UnreadableError(f"cannot be decoded ({reason(error)}){way}") from None


def strips(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of a picture in pieces of at most :data:`STRIP` pixels, or of one row."""
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def pixels_of(
    picture: PILImage.Image, to_rgb: Callable[[PILImage.Image], PILImage.Image] = lambda strip: strip.convert("RGB")
) -> Pixels:
    """Return a decoded picture's pixels, made RGB piece by piece."""
    width, height = picture.size
    if width * height <= STRIP:
        return np.array(to_rgb(picture))
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in strips(height, width):
        pixels[rows] = np.asarray(to_rgb(picture.crop((0, rows.start, width, rows.stop))))
    return pixels


def _shows_something(picture: ImageFile) -> bool:
    """Return whether a decoder that failed has left anything in the picture's memory, which was black before."""
    picture.tile = []  # nothing more is decoded
    try:
        picture.load()
        return picture.getbbox() is not None
    except Exception:  # there is no memory yet
        return False
