"""Greys and orientation of TIFF files (TIFF 6.0)."""

from __future__ import annotations

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from feddat.pictures.exif import ORIENTATION
from feddat.pictures.notes import Note
from feddat.pictures.pixels import Values

BITS, PHOTOMETRIC, SAMPLE_FORMAT, SMALLEST, LARGEST = 258, 262, 339, 340, 341
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


class StoredTiff(TiffImageFile):
    """A TIFF picture as it is stored. Pillow itself would turn it, and would fail if its EXIF is damaged."""

    def load_end(self) -> None:
        """Do not turn the picture; set its size to the stored size."""
        self._size = self.im.size


def is_grey(picture: TiffImageFile) -> bool:
    """Return whether a picture holds greys that Pillow would convert wrongly."""
    return picture.mode in ("I", "F") or picture.mode.startswith("I;") or _is_signed_byte(picture)


def greys(picture: TiffImageFile) -> Values:
    """Return the stored greys (H, W) of a decoded picture; larger is brighter."""
    values = np.asarray(picture)
    if _is_signed_byte(picture):
        values = values.view(np.int8)
    elif picture.mode == "I" and _number(picture, SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
        values = values.view(np.uint32)
    elif values.dtype.itemsize == 2:
        values = values.astype(np.uint16, copy=False)  # in native byte order
    return values


def bits(picture: TiffImageFile) -> int:
    """Return the bits per channel that the file declares; 16 if it declares none."""
    return int(_number(picture, BITS, 16) or 16)


def white_is_zero(picture: TiffImageFile) -> bool:
    """Return whether greys of more than 8 bits must be inverted. Pillow itself inverts those of fewer bits."""
    deep = picture.mode in ("I", "F") or picture.mode.startswith("I;")
    return deep and _number(picture, PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO


def range_of(picture: TiffImageFile) -> tuple[tuple[float, float] | None, Note]:
    """Return the greys that become black and white, and a note; ``None`` for floats without a declared range."""
    smallest, largest = _number(picture, SMALLEST, None), _number(picture, LARGEST, None)
    if smallest is not None and largest is not None and largest > smallest:
        return (float(smallest), float(largest)), Note.DECLARED_RANGE
    form, count = _number(picture, SAMPLE_FORMAT, _UNSIGNED), bits(picture)
    if form == _FLOAT:
        return None, Note.UNIT_RANGE
    if form == _SIGNED:
        return (-(2.0 ** (count - 1)), 2.0 ** (count - 1) - 1), Note.DECLARED_RANGE
    return (0.0, 2.0**count - 1), Note.FULL_RANGE if count == 16 else Note.DECLARED_RANGE


def orientation_entry(picture: TiffImageFile) -> tuple[int, int] | None:
    """Return type and value of the orientation, like :func:`feddat.pictures.exif.entry_in`."""
    try:
        value = picture.tag_v2.get(ORIENTATION)
        value = value[0] if isinstance(value, tuple | bytes) else value
        return None if value is None else (picture.tag_v2.tagtype.get(ORIENTATION, 0), int(value))
    except Exception:  # see _number
        return None


def _is_signed_byte(picture: TiffImageFile) -> bool:
    return picture.mode == "L" and _number(picture, SAMPLE_FORMAT, _UNSIGNED) == _SIGNED


def _number(picture: TiffImageFile, tag: int, default: float | None) -> float | None:
    """Return a tag's first value; the default if the tag is missing or no number."""
    try:
        value = picture.tag_v2.get(tag, default)
        value = value[0] if isinstance(value, tuple) else value
        return default if value is None or isinstance(value, str | bytes) else float(value)
    except Exception:  # Pillow decodes tags on access and raises many kinds of errors for damaged ones
        return default
