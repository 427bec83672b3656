"""Greys of more than 8 bits, made 8: from which range, and how.

A picture of 12 bits in a file of 16 is black if its upper 8 are taken. What becomes 0 and 255 is what the file
declares, or what ``pictures.grey: percentiles`` finds in the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feddat.picture_settings import PictureSettings
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import strips
from feddat.pictures.pixels import Pixels, UnreadableError, Values

PERCENTILES = (0.5, 99.5)
#: Of more values, evenly spread ones are looked at.
_LOOKED_AT = 1 << 22
#: A picture whose values take up less than this share of the range is nearly of one grey.
_FLAT = 1 / 16


def to_8_bits(
    values: Values, declared: tuple[float, float] | None, note: Note, settings: PictureSettings, notes: Notes
) -> NDArray[np.uint8]:
    """Return grey values (H, W) as uint8.

    Args:
        values: whole or floating-point numbers; those that are no numbers become 0.
        declared: what becomes 0 and what 255; ``None`` if the file does not say.
        note: what to tell of the declared range.
        settings: say whether it counts.
        notes: what was done.

    Raises:
        UnreadableError: nothing is declared, and settings do not say what to do.
    """
    if settings.grey == "percentiles" and (found := percentiles(values)) is not None:
        notes.add(Note.PERCENTILES)
        return scaled(values, *found)
    if declared is None:
        seen = _sample(values)
        if seen.size and (seen.min() < 0 or seen.max() > 1):
            raise UnreadableError(
                "floating-point values that are not between 0 and 1, and no range is declared; set "
                "pictures.grey=percentiles"
            )
        declared, note = (0.0, 1.0), Note.UNIT_RANGE
    notes.add(note)
    if is_flat(values, *declared):
        notes.add(Note.FLAT)
    return scaled(values, *declared)


def percentiles(values: Values) -> tuple[float, float] | None:
    """Return the values' own percentiles :data:`PERCENTILES`; ``None`` if they are the same."""
    seen = _sample(values)
    low, high = np.percentile(seen, PERCENTILES).tolist() if seen.size else (0.0, 0.0)
    return (low, high) if high > low else None


def is_flat(values: Values, low: float, high: float) -> bool:
    """Return whether values take up so little of a range that next to nothing would be seen."""
    used = float(np.fmax.reduce(values, axis=None)) - float(np.fmin.reduce(values, axis=None))
    return used < (high - low) * _FLAT


def scaled(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return values (H, W) as uint8: ``low`` and what is below becomes 0, ``high`` and what is above 255."""
    if values.dtype == np.uint16:
        looked_up: NDArray[np.uint8] = levels(np.arange(1 << 16), low, high)[values]
        return looked_up
    made = np.empty(values.shape, np.uint8)
    for rows in strips(*values.shape):
        made[rows] = levels(values[rows], low, high)
    return made


def levels(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return values of any shape as levels of 0 to 255, rounded; what is no number becomes 0."""
    wide = (values.astype(np.float64) - low) * 255 / (high - low if high > low else np.inf)
    return rounded(wide)


def rounded(wide: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return levels as whole numbers of 0 to 255, halves upwards; what is no number becomes 0."""
    whole: NDArray[np.uint8] = np.floor(np.nan_to_num(wide, nan=0.0) + 0.5).clip(0, 255).astype(np.uint8)
    return whole


def grey_pixels(grey: NDArray[np.uint8]) -> Pixels:
    """Return greys (H, W) as RGB."""
    return np.repeat(grey[..., None], 3, axis=2)


def _sample(values: Values) -> Values:
    """Return finite values, one dimension, of large pictures evenly spread ones."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _LOOKED_AT)]
    return flat if flat.dtype.kind in "iu" else flat[np.isfinite(flat)]
