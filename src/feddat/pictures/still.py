"""Read every format except JPEG and DICOM: decode it with Pillow's class for the format, as upright RGB."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from feddat.picture_settings import PictureSettings
from feddat.pictures import png, tiff
from feddat.pictures.colour import from_profile, rgb_of
from feddat.pictures.exif import entry_in, orientation, turned
from feddat.pictures.grey import grey_pixels, to_8_bits
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import load
from feddat.pictures.pixels import Pixels, UnreadableError, check_size, reason

#: Format -> function that opens it.
_OPENERS: dict[str, Callable[[BinaryIO], ImageFile]] = {
    "PNG": PngImageFile,
    "TIFF": tiff.StoredTiff,
    "JPEG 2000": Jpeg2KImageFile,
    "WebP": WebPImageFile,
    "AVIF": AvifImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "PNM": PpmImageFile,
}
#: Format whose files Pillow refuses if their metadata is damaged -> function that removes the metadata.
_WITHOUT_METADATA: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "PNG": png.without_metadata,
    "AVIF": lambda file: _without_exif(file),
}
#: Formats whose decoders read the whole file into memory, and the size of an uncompressed pixel in bytes.
_WHOLE, _BYTES_PER_PIXEL = ("WebP", "AVIF", "JPEG 2000"), 8
#: AVIF's description of its colours; the second number is the transfer function.
_AVIF_COLOURS = re.compile(rb"colrnclx..(..)", re.DOTALL)
_AVIF_HEAD = 1 << 16
_HDR = (16, 18)
_FULL = (0.0, 65535.0)


def read(file: BinaryIO, name: str, settings: PictureSettings, notes: Notes) -> Pixels:
    """Return the picture in a file of the format ``name``; if there are several, the one that settings select.

    Raises:
        UnreadableError: the file is damaged, truncated, too large or of an unsupported kind.
    """
    facts = png.read_facts(file) if name == "PNG" else png.Facts()
    _check_first(file, name, settings)
    file.seek(0)
    picture = _opened(file, name, notes)
    check_size(*picture.size, settings.max_pixels)
    _choose_frame(picture, settings, notes)
    check_size(*picture.size, settings.max_pixels)
    load(picture, settings, notes)
    profile = _profile(picture)
    if _is_deep(picture):
        pixels = grey_pixels(_greys(picture, facts, settings, notes))
        if profile:
            pixels = from_profile(pixels, profile, 1, notes)
    else:
        if _is_16_bits_wide(picture, facts):
            notes.add(Note.UPPER_BITS)
        _mend_transparency(picture, facts)
        try:
            pixels = rgb_of(picture, profile, facts.gamma, notes)
        except Exception as error:  # a palette, for example, can be damaged
            raise UnreadableError(f"cannot be decoded ({reason(error)})") from None
    xmp = _xmp(picture)
    upright = orientation(_orientation_entry(picture, facts), xmp, notes)
    return pixels if upright == 1 else turned(pixels, upright)


def _check_first(file: BinaryIO, name: str, settings: PictureSettings) -> None:
    """Raise for files that must be refused before Pillow opens them."""
    if name in _WHOLE:
        size, most = file.seek(0, 2), _BYTES_PER_PIXEL * settings.max_pixels + (1 << 20)
        if size > most:
            raise UnreadableError(f"has {size} bytes, too many for {name} of at most {settings.max_pixels} pixels")
    file.seek(0)
    if name == "WebP":
        width, height = _webp_size(file.read(30))
        check_size(width, height, settings.max_pixels)
    elif name == "AVIF":
        found = _AVIF_COLOURS.search(file.read(_AVIF_HEAD))
        if found and int.from_bytes(found[1]) in _HDR:
            raise UnreadableError("colours for HDR screens are not read; save it for common screens (sRGB)")


def _opened(file: BinaryIO, name: str, notes: Notes) -> ImageFile:
    try:
        return _OPENERS[name](file)
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        if name in _WITHOUT_METADATA:
            try:
                picture = _OPENERS[name](_WITHOUT_METADATA[name](file))
            except Exception:
                pass  # report the first error, which is more helpful
            else:
                notes.add(Note.METADATA)
                return picture
        way = "; save it as grey of 8 or 16 bits or RGB of 8" if "unknown pixel mode" in str(error) else ""
        raise UnreadableError(f"cannot be decoded ({name}: {reason(error)}){way}") from None


def _without_exif(file: BinaryIO) -> BytesIO:
    """Return a file of boxes whose EXIF item is renamed to an unknown type, so that decoders ignore it."""
    file.seek(0)
    return BytesIO(file.read().replace(b"Exif", b"none"))


def _choose_frame(picture: ImageFile, settings: PictureSettings, notes: Notes) -> None:
    try:
        if not getattr(picture, "is_animated", False):
            return
        notes.add(Note.FRAMES)
        if settings.frame == 1:
            return
        count: int = getattr(picture, "n_frames", 1)
        index = count // 2 if settings.frame == "middle" else settings.frame - 1
        if index < count:
            picture.seek(index)
            return
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise UnreadableError(f"cannot be decoded ({reason(error)})") from None
    raise UnreadableError(f"the file holds {count} pictures, but pictures.frame is {settings.frame}")


def _is_deep(picture: ImageFile) -> bool:
    if isinstance(picture, tiff.StoredTiff):
        return tiff.is_grey(picture)
    return picture.mode in ("I", "F") or picture.mode.startswith("I;")


def _greys(picture: ImageFile, facts: png.Facts, settings: PictureSettings, notes: Notes) -> Any:
    """Return greys of more than 8 bits as uint8 (H, W)."""
    if isinstance(picture, tiff.StoredTiff):
        declared, note = tiff.range_of(picture)
        grey = to_8_bits(tiff.greys(picture), declared, note, settings, notes)
        return ~grey if tiff.white_is_zero(picture) else grey
    values = np.asarray(picture)
    if picture.mode == "F":
        return to_8_bits(values, None, Note.UNIT_RANGE, settings, notes)
    values = values.clip(0, 65535).astype(np.uint16)
    declared = png.range_of(facts, values)
    note = Note.FULL_RANGE if declared == _FULL else Note.DECLARED_RANGE
    grey = to_8_bits(values, declared, note, settings, notes)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return grey


def _is_16_bits_wide(picture: ImageFile, facts: png.Facts) -> bool:
    """Return whether a picture's channels have 16 bits; Pillow reads only the upper 8."""
    if isinstance(picture, tiff.StoredTiff):
        return tiff.bits(picture) == 16
    return facts.bits == 16


def _mend_transparency(picture: ImageFile, facts: png.Facts) -> None:
    """Convert the colour that a PNG file declares transparent to the range of Pillow's decoded values."""
    clear = picture.info.get("transparency")
    if isinstance(clear, tuple) and facts.bits == 16:
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    elif isinstance(clear, int) and picture.mode in ("1", "L") and facts.bits < 8:
        picture.info["transparency"] = clear * 255 // ((1 << facts.bits) - 1)


def _profile(picture: ImageFile) -> bytes:
    try:
        found = picture.info.get("icc_profile")
    except Exception:
        return b""
    return found if isinstance(found, bytes) else b""


def _xmp(picture: ImageFile) -> bytes:
    found = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
    if isinstance(found, str):
        return found.encode(errors="replace")
    return found if isinstance(found, bytes) else b""


def _orientation_entry(picture: ImageFile, facts: png.Facts) -> tuple[int, int] | None:
    if isinstance(picture, tiff.StoredTiff):
        return tiff.orientation_entry(picture)
    exif = picture.info.get("exif") or facts.exif
    if not exif and isinstance(told := picture.info.get("Raw profile type exif"), str):
        # Old ImageMagick versions write a name, a length and lines of hexadecimal digits.
        try:
            exif = bytes.fromhex("".join(told.split()[2:]))
        except ValueError:
            return None
    return entry_in(exif) if isinstance(exif, bytes) else None


def _webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height of the canvas. Pillow allocates it as soon as it opens a file."""
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(body) >= 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise UnreadableError("cannot be decoded (WebP without a picture)")
