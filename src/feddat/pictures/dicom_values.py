"""Convert the stored values of a DICOM file to grey levels: rescale, window, inversion (PS3.3 C.11, C.7.6.16.2).

Elements for one frame or for all frames take precedence over elements at the top level of the file. The result depends
only on the stored value, so for the common 8 and 16 bits it is computed once per possible value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feddat.picture_settings import PictureSettings
from feddat.pictures.grey import is_flat, percentiles, rounded
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import strips
from feddat.pictures.pixels import UnreadableError, Values

#: Elements that this conversion reads.
TAGS = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_Numbers = NDArray[np.float64]
_Step = Callable[[_Numbers], _Numbers]


@dataclass(frozen=True, slots=True)
class _Table:
    """A lookup table with the value that its first entry stands for and the maximum of its entries."""

    first: int
    entries: _Numbers
    most: float

    def __call__(self, values: _Numbers) -> _Numbers:
        return self.entries[(values - self.first).clip(0, len(self.entries) - 1).astype(np.int64)]


def to_8_bits(values: Values, header: Any, index: int, settings: PictureSettings, notes: Notes) -> NDArray[np.uint8]:
    """Return a frame's stored greys (H, W) as uint8, as a viewer shows them by default.

    Raises:
        UnreadableError: the values are floating-point numbers without a window, and settings do not choose percentiles.
    """
    modality, table = _modality(header, index)
    window = None if settings.grey == "percentiles" else _window(header, index)
    if window is not None:
        notes.add(Note.WINDOW)
        shown: _Step = window
    else:
        low, high = _range(values, header, modality, table, settings, notes)

        def shown(numbers: _Numbers) -> _Numbers:
            return (numbers - low) * 255 / (high - low if high > low else np.inf)

    inverted = str(header.get("PhotometricInterpretation")).strip().upper() == "MONOCHROME1"

    def grey(stored: Values) -> NDArray[np.uint8]:
        made = rounded(shown(modality(stored.astype(np.float64))))
        return ~made if inverted else made

    with np.errstate(all="ignore"):
        return _mapped(values, grey)


def _mapped(values: Values, grey: Callable[[Values], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        unsigned = np.dtype(f"u{values.dtype.itemsize}")
        possible = np.arange(1 << (8 * unsigned.itemsize)).astype(unsigned).view(values.dtype)
        looked_up: NDArray[np.uint8] = grey(possible)[values.view(unsigned)]
        return looked_up
    made = np.empty(values.shape, np.uint8)
    for rows in strips(*values.shape):
        made[rows] = grey(values[rows])
    return made


def _modality(header: Any, index: int) -> tuple[_Step, _Table | None]:
    """Return the function from stored values to the values that a window applies to, and its lookup table, if any."""
    table = _table(_first(header.get("ModalityLUTSequence")), header)
    if table is not None:
        return table, table
    group = _group(header, index, "PixelValueTransformationSequence")
    slope, intercept = _number(group, "RescaleSlope"), _number(group, "RescaleIntercept")
    if slope is None or intercept is None or slope == 0:
        return lambda values: values, None
    return lambda values: values * slope + intercept, None


def _window(header: Any, index: int) -> _Step | None:
    """Return the function from values to levels of 0 to 255 by the first table or window; ``None`` without one."""
    group = _group(header, index, "FrameVOILUTSequence")
    table = _table(_first(group.get("VOILUTSequence")), header)
    if table is not None:
        return lambda values: table(values) * 255 / table.most
    middle, extent = _number(group, "WindowCenter"), _number(group, "WindowWidth")
    if middle is None or extent is None or extent <= 0:
        return None
    center, width = middle, extent
    function = str(group.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        return lambda values: 255 / (1 + np.exp(-4 * (values - center) / width))
    if function != "LINEAR_EXACT" and width >= 1:
        center, width = center - 0.5, width - 1
    if width == 0:
        return lambda values: np.where(values <= center, 0.0, 255.0)
    return lambda values: ((values - center) / width + 0.5) * 255


def _range(
    values: Values, header: Any, modality: _Step, table: _Table | None, settings: PictureSettings, notes: Notes
) -> tuple[float, float]:
    """Return the values that become 0 and 255 without a window: the range of the stored bits, or the percentiles."""
    seen = _without_padding(values, header)
    if settings.grey == "percentiles":
        found = percentiles(seen)
        if found is not None:
            notes.add(Note.PERCENTILES)
            low, high = modality(np.array(found)).tolist()
            return min(low, high), max(low, high)
    if values.dtype.kind not in "iu":
        raise UnreadableError("DICOM with floating-point values and no window; set pictures.grey=percentiles")
    bits = _number(header, "BitsStored") or 8 * values.dtype.itemsize
    signed = values.dtype.kind == "i"
    stored = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    notes.add(Note.NO_WINDOW)
    if is_flat(seen, *stored):
        notes.add(Note.FLAT)
    if table is not None:
        return 0.0, table.most
    low, high = modality(np.array(stored)).tolist()
    return min(low, high), max(low, high)


def _without_padding(values: Values, header: Any) -> Values:
    """Return the values of the picture as a 1-D array, without the padding that makes it a rectangle."""
    padding = _number(header, "PixelPaddingValue")
    if padding is None:
        return values.reshape(-1)
    limit = _number(header, "PixelPaddingRangeLimit")
    low, high = min(padding, limit or padding), max(padding, limit or padding)
    kept: Values = values[(values < low) | (values > high)]
    return kept if kept.size else values.reshape(-1)


def _group(header: Any, index: int, name: str) -> Any:
    """Return the item with the elements of one frame, else the item for all frames, else the file itself."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for item in ([own[index]] if index < len(own) else []) + list(shared[:1]):
        found = _first(item.get(name))
        if found is not None:
            return found
    return header


def _first(sequence: Any) -> Any:
    """Return the first item of a sequence; ``None`` if it is empty or missing."""
    return sequence[0] if sequence is not None and not isinstance(sequence, str | bytes) and len(sequence) else None


def _table(item: Any, header: Any) -> _Table | None:
    """Return the lookup table of an item; ``None`` if it has no usable one."""
    descriptor = None if item is None else item.get("LUTDescriptor")
    data = None if item is None else item.get("LUTData")
    if descriptor is None or data is None or isinstance(descriptor, int | str | bytes) or len(descriptor) != 3:
        return None
    count, first, bits = (int(number) for number in descriptor)
    count = count or 1 << 16
    if isinstance(data, bytes):
        _, little = header.original_encoding
        words = len(data) >= 2 * count  # otherwise the entries are bytes
        kind = ("<u2" if little else ">u2") if words else "u1"
        entries = np.frombuffer(data[: len(data) // 2 * 2], kind).astype(np.float64)
    else:
        entries = np.array(data, np.float64).reshape(-1)
    entries = entries[:count]
    return _Table(first, entries, float((1 << bits) - 1)) if entries.size and 1 <= bits <= 16 else None


def _number(item: Any, name: str) -> float | None:
    """Return an element's first value as a finite number; ``None`` if it is not one."""
    try:
        value = item.get(name)
        number = float(value if isinstance(value, int | float | str) else value[0])
    except Exception:  # pydicom decodes elements on access
        return None
    return number if math.isfinite(number) else None
