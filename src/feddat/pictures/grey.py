"""Convert greys of more than 8 bits to 8 bits.

Taking the upper 8 bits does not work: a 12-bit picture in a 16-bit file would become black. So the range that becomes
0 to 255 is the one that the file declares, or the one that ``pictures.grey: percentiles`` finds in the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feddat.picture_settings import PictureSettings
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import strips
from feddat.pictures.pixels import Pixels, UnreadableError, Values

PERCENTILES = (0.5, 99.5)
#: Number of values above which percentiles come from evenly spaced samples.
_LOOKED_AT = 1 << 22
#: A picture whose values cover less than this share of the range counts as nearly uniform.
_FLAT = 1 / 16


def to_8_bits(
    values: Values, declared: tuple[float, float] | None, note: Note, settings: PictureSettings, notes: Notes
) -> NDArray[np.uint8]:
    """Return grey values (H, W) as uint8.

    Args:
        values: integers or floating-point numbers; NaN becomes 0.
        declared: the values that become 0 and 255; ``None`` if the file declares none.
        note: note to count when the declared range is used.
        settings: settings that choose between the declared range and percentiles.
        notes: counts the changes.

    Raises:
        UnreadableError: no range is declared, values lie outside 0 to 1, and settings do not choose percentiles.
    """
    if settings.grey == "percentiles" and (found := percentiles(values)) is not None:
        notes.add(Note.PERCENTILES)
        return scaled(values, *found)
    if declared is None:
        seen = _sample(values)
        if seen.size and (seen.min() < 0 or seen.max() > 1):
            raise UnreadableError(
                "has floating-point values outside 0 to 1 but declares no range; set pictures.grey=percentiles"
            )
        declared, note = (0.0, 1.0), Note.UNIT_RANGE
    notes.add(note)
    if is_flat(values, *declared):
        notes.add(Note.FLAT)
    return scaled(values, *declared)


def percentiles(values: Values) -> tuple[float, float] | None:
    """Return the :data:`PERCENTILES` of the values; ``None`` if both are equal."""
    seen = _sample(values)
    low, high = np.percentile(seen, PERCENTILES).tolist() if seen.size else (0.0, 0.0)
    return (low, high) if high > low else None


def is_flat(values: Values, low: float, high: float) -> bool:
    """Return whether values cover so little of a range that the picture would show almost nothing."""
    used = float(np.fmax.reduce(values, axis=None)) - float(np.fmin.reduce(values, axis=None))
    return used < (high - low) * _FLAT


def scaled(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return values (H, W) as uint8: ``low`` and lower values become 0, ``high`` and higher values become 255."""
    if values.dtype == np.uint16:
        looked_up: NDArray[np.uint8] = levels(np.arange(1 << 16), low, high)[values]
        return looked_up
    made = np.empty(values.shape, np.uint8)
    for rows in strips(*values.shape):
        made[rows] = levels(values[rows], low, high)
    return made


def levels(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Return values of any shape as rounded uint8 levels from 0 to 255; NaN becomes 0."""
    wide = (values.astype(np.float64) - low) * 255 / (high - low if high > low else np.inf)
    return rounded(wide)


def rounded(wide: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return levels rounded to uint8, with halves rounded up, and clipped to 0 to 255; NaN becomes 0."""
    whole: NDArray[np.uint8] = np.floor(np.nan_to_num(wide, nan=0.0) + 0.5).clip(0, 255).astype(np.uint8)
    return whole


def grey_pixels(grey: NDArray[np.uint8]) -> Pixels:
    """Return greys (H, W) as RGB pixels (H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=2)


def _sample(values: Values) -> Values:
    """Return the finite values as a 1-D array; for large pictures, only evenly spaced samples."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _LOOKED_AT)]
    return flat if flat.dtype.kind in "iu" else flat[np.isfinite(flat)]
