"""Convert the colours of a file to sRGB: palettes, transparency, CMYK, Lab, colour profiles, gamma.

Colour profiles are applied as viewers do. Most profiles are equivalent to sRGB and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from io import BytesIO

import numpy as np
from PIL import Image as PILImage
from PIL import ImageCms, ImageOps

from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import pixels_of, strips
from feddat.pictures.pixels import Pixels

#: Maximum difference, in levels of 256, of a profile that counts as sRGB.
_SAME = 2
#: Colour space in the header of a profile -> Pillow's mode.
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: Range of display exponents that count as 1.
_NO_GAMMA = (0.95, 1.05)
#: Exponents outside this range count as damage and are ignored.
_GAMMAS = (0.1, 10.0)


def rgb_of(picture: PILImage.Image, profile: bytes, gamma: float, notes: Notes) -> Pixels:
    """Return a decoded picture of at most 8 bits per channel in sRGB, with transparent parts in white.

    Args:
        picture: decoded picture in any of Pillow's modes with at most 8 bits per channel.
        profile: its colour profile; empty if it has none.
        gamma: exponent that its values need for display; 1 if the file declares none.
        notes: counts the changes.
    """
    if picture.mode == "CMYK":
        return rgb_of_cmyk(picture, profile, inverted=False, notes=notes)
    grey = picture.mode in ("1", "L", "LA", "La")
    transform = _transform(profile, "L" if grey else "RGB") if profile else None
    if transform is not None:
        notes.add(Note.PROFILE)
    curve = None if _NO_GAMMA[0] < gamma < _NO_GAMMA[1] or profile else _curve(gamma)
    return pixels_of(picture, partial(_strip, transform=transform, grey=grey, curve=curve))


def from_profile(pixels: Pixels, profile: bytes, channels: int, notes: Notes) -> Pixels:
    """Convert RGB pixels (H, W, 3), read from a picture with 1 or 3 channels and a profile, to sRGB; return them."""
    transform = _transform(profile, "L" if channels == 1 else "RGB")
    if transform is None:
        return pixels
    notes.add(Note.PROFILE)
    for rows in strips(*pixels.shape[:2]):
        strip = pixels[rows]
        picture = PILImage.fromarray(np.ascontiguousarray(strip[..., 0]) if channels == 1 else strip)
        pixels[rows] = np.asarray(transform.apply(picture))
    return pixels


def rgb_of_cmyk(picture: PILImage.Image, profile: bytes, inverted: bool, notes: Notes) -> Pixels:
    """Return a CMYK picture in sRGB, converted with its profile if it has one.

    Args:
        picture: picture as Pillow decodes it.
        profile: its colour profile; empty if it has none.
        inverted: whether Pillow wrongly read its values as Adobe's, where 0 means full ink.
        notes: counts the changes.
    """
    transform = _transform(profile, "CMYK") if profile else None
    if transform is not None:
        notes.add(Note.PROFILE)

    def to_rgb(strip: PILImage.Image) -> PILImage.Image:
        if inverted:
            strip = PILImage.merge("CMYK", [ImageOps.invert(band) for band in strip.split()])
        return strip.convert("RGB") if transform is None else transform.apply(strip)

    return pixels_of(picture, to_rgb)


def _strip(
    strip: PILImage.Image,
    transform: ImageCms.ImageCmsTransform | None,
    grey: bool,
    curve: list[int] | None,
) -> PILImage.Image:
    alpha = None
    if strip.has_transparency_data:
        strip = strip.convert("RGBA")
        alpha = strip.getchannel("A")
    if transform is not None:
        strip = transform.apply(strip.convert("L" if grey else "RGB"))
    strip = strip.convert("RGB")
    if curve is not None:
        strip = strip.point(curve * 3)
    if alpha is None:
        return strip
    strip.putalpha(alpha)
    white = PILImage.new("RGBA", strip.size, "white")
    return PILImage.alpha_composite(white, strip).convert("RGB")


def _curve(gamma: float) -> list[int] | None:
    if not _GAMMAS[0] < gamma < _GAMMAS[1]:
        return None
    return [round(255 * (level / 255) ** gamma) for level in range(256)]


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB for pictures of a mode.

    ``None`` if it changes nothing, the profile has another colour space, or it is unusable.
    """
    if _SPACES.get(profile[16:20]) != mode:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode != "CMYK" and _changes_nothing(transform.apply, mode) else transform


def _changes_nothing(apply: Callable[[PILImage.Image], PILImage.Image], mode: str) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        given = levels[None]
        expected = np.repeat(given[..., None], 3, axis=2)
    else:
        given = expected = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
    made = np.asarray(apply(PILImage.fromarray(given))).astype(int)
    return bool(np.abs(made - expected).max() <= _SAME)
