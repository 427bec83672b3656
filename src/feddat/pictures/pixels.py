"""What every module here gives or raises."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: RGB, uint8 (H, W, 3).
Pixels: TypeAlias = NDArray[np.uint8]
#: Grey values of more than 8 bits, (H, W).
Values: TypeAlias = NDArray[Any]


class UnreadableError(ValueError):
    """A picture cannot be read; says why and what to do, without the picture's name."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise before a picture is decoded that has too many pixels, or none.

    Raises:
        UnreadableError: it has.
    """
    if width < 1 or height < 1:
        raise UnreadableError(f"cannot be decoded ({width} x {height} pixels)")
    if width * height > max_pixels:
        raise UnreadableError(
            f"{width} x {height} pixels are more than pictures.max_pixels ({max_pixels}) allows; make it smaller, or "
            "set that higher"
        )


def reason(error: BaseException) -> str:
    """Return a decoder's error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
