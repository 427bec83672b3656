"""From the colours that a file has to sRGB: palettes, transparency, CMYK, Lab, colour profiles, gamma.

A profile is followed as viewers do. Most say sRGB in other words; then nothing is changed.
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

#: Levels of 256 by which a profile may differ from sRGB and count as it.
_SAME = 2
#: A colour space in a profile's header -> Pillow's mode.
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: What a picture's stored values are raised to for display, of which this is as good as 1.
_NO_GAMMA = (0.95, 1.05)
#: Exponents beyond these are damage.
_GAMMAS = (0.1, 10.0)


def rgb_of(picture: PILImage.Image, profile: bytes, gamma: float, notes: Notes) -> Pixels:
    """Return a decoded picture of at most 8 bits a channel in sRGB, transparent parts white.

    Args:
        picture: of any of Pillow's modes of so many bits.
        profile: its colour profile; empty if it has none.
        gamma: what its values are raised to for display, 1 if nothing is said.
        notes: what was done.
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
    """Return RGB pixels (H, W, 3) in sRGB that were read from a picture of 1 or 3 channels with a profile."""
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
    """Return a CMYK picture in sRGB, by its profile where it has one.

    Args:
        picture: as Pillow decodes it.
        profile: its colour profile; empty if it has none.
        inverted: whether Pillow has taken its values for Adobe's, where 0 is full ink, and they are not.
        notes: what was done.
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
    """Return what turns pictures of a mode from a profile into sRGB.

    ``None`` where that changes nothing, the profile is of other colours, or it cannot be used.
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
