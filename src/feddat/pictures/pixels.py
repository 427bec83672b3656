"""Types, errors and checks that all modules of this package share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: RGB, uint8 (H, W, 3).
Pixels: TypeAlias = NDArray[np.uint8]
#: Grey values of more than 8 bits, (H, W).
Values: TypeAlias = NDArray[Any]


class UnreadableError(ValueError):
    """A picture cannot be read. The message gives the reason and a remedy, but not the picture's name."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Check the size of a picture before it is decoded.

    Raises:
        UnreadableError: the picture has no pixels, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise UnreadableError(f"cannot be decoded ({width} x {height} pixels)")
    if width * height > max_pixels:
        raise UnreadableError(
            f"{width} x {height} pixels are more than pictures.max_pixels ({max_pixels}) allows; make it smaller or "
            "increase that setting"
        )


def reason(error: BaseException) -> str:
    """Return a decoder's error as one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
