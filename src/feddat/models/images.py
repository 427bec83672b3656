"""Images as every backbone wants them: RGB, upright, 8 bits.

Pillow reads whatever it can; plain JPEG files go past it to the library that it uses, for the same pixels in two thirds
of the time.
"""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps
from PIL.ExifTags import Base

from feddat.example import DataError, Image

Pixels: TypeAlias = NDArray[np.uint8]

#: What a file that says how it is to be turned has somewhere, in EXIF or in XMP.
_ORIENTATIONS = (b"Exif\0\0", b"tiff:Orientation")


def read_rgb(image: Image) -> Pixels:
    """Return an image as uint8 (H, W, 3).

    Grayscale, palette and 16-bit files become RGB, transparent parts become white, and EXIF rotation is applied.

    Raises:
        DataError: the file is missing or no image, or the array is not uint8 (H, W, 3).
    """
    if isinstance(image, Path):
        try:
            data = image.read_bytes()
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise DataError(f"image {image}: {reason}") from None
        return _decode(data, str(image))
    if isinstance(image, bytes):
        return _decode(image, "in memory")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"image in memory: expected uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
    return image


def _decode(data: bytes, name: str) -> Pixels:
    try:
        if _is_plain_jpeg(data):
            return _decode_jpeg(data)
        with PILImage.open(BytesIO(data)) as file:
            if file.format == "JPEG" and file.mode in ("RGB", "L") and file.getexif().get(Base.Orientation, 1) == 1:
                return _decode_jpeg(data)
            ImageOps.exif_transpose(file, in_place=True)
            return np.array(_to_rgb(file))
    # What Pillow raises on damaged files of its many formats.
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, PILImage.DecompressionBombError) as error:
        raise DataError(f"image {name}: cannot be decoded ({error})") from None


def _is_plain_jpeg(data: bytes) -> bool:
    """Return whether these are a JPEG file's bytes that Pillow need not look at: upright, of three channels or one."""
    if not data.startswith(b"\xff\xd8\xff") or any(mark in data for mark in _ORIENTATIONS):
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # of a kind that it does not know, or damaged
        return False
    return colours in ("YCbCr", "RGB", "Gray") and height * width <= (PILImage.MAX_IMAGE_PIXELS or float("inf"))


def _decode_jpeg(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data)
    return pixels


def _to_rgb(image: PILImage.Image) -> PILImage.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grayscale to white instead of scaling it.
        image = PILImage.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PILImage.new("RGBA", image.size, "white")
        image = PILImage.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
