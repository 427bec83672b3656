"""The orientation of a picture, read from EXIF or XMP.

No other metadata matters, so no other metadata is parsed: malformed metadata is no reason to refuse a picture. Cameras
and editors store the orientation as many different types; all of them are accepted.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels

ORIENTATION = 0x0112
EXIF_MARK = b"Exif\0\0"
_SHORT = 3
#: EXIF's type -> struct format of one value; ASCII (2) is read as text.
_TYPES = {1: "B", 2: "s", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "B", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d"}
_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")


def orientation(entry: tuple[int, int] | None, xmp: bytes, notes: Notes) -> int:
    """Return the orientation, 1 to 8; 1 if there is no usable information.

    Args:
        entry: type and value of the orientation in EXIF, from :func:`entry_in`.
        xmp: XMP metadata, which is used if EXIF has no orientation.
        notes: counts the changes.
    """
    kind, value = entry or (_SHORT, 0)
    if value in range(1, 9):
        if kind != _SHORT and value != 1:
            notes.add(Note.ORIENTATION)
        return value
    told = _XMP.search(xmp)
    return int(told[1]) if told else 1


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Return a picture (H, W, 3) or (H, W) turned upright; ``orientation`` is the number from EXIF."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def entry_in(exif: bytes) -> tuple[int, int] | None:
    """Return type and value of the orientation in EXIF; ``None`` if there is no such entry. An invalid value is 0.

    Args:
        exif: EXIF data, with or without the mark that precedes it in JPEG files.
    """
    data = exif.removeprefix(EXIF_MARK)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, number = struct.unpack_from(f"{order}HHL", data, entry)
            if tag == ORIENTATION:
                return kind, _value(data, entry + 8, order, kind, number)
    except struct.error:
        return None
    return None


def _value(data: bytes, at: int, order: str, kind: int, number: int) -> int:
    """Return an entry's first value if it is a valid orientation, else 0."""
    form = _TYPES.get(kind)
    if form is None or number < 1:
        return 0
    size = struct.calcsize(f"{order}{form}")
    if size * number > 4:  # then the field holds its offset
        (at,) = struct.unpack_from(f"{order}L", data, at)
    if kind == 2:
        text = data[at : at + min(number, 16)].split(b"\0")[0].strip()
        return int(text) if text in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8") else 0
    try:
        values = struct.unpack_from(f"{order}{form}", data, at)
    except struct.error:
        return 0
    value, divisor = values if len(values) == 2 else (values[0], 1)
    return int(value / divisor) if divisor and value / divisor in range(1, 9) else 0
