"""Read JPEG files with libjpeg-turbo, or with Pillow if libjpeg-turbo is too strict.

Files from scanners and old phones contain stray bytes between their segments, and disks flip bits. Browsers and Pillow
read such files, but simplejpeg refuses them. Refused files go to Pillow without their metadata segments, because
metadata does not change the decoded pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from feddat.picture_settings import PictureSettings
from feddat.pictures.colour import from_profile, rgb_of_cmyk
from feddat.pictures.exif import EXIF_MARK, entry_in, orientation, turned
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pillow import load, pixels_of
from feddat.pictures.pixels import Pixels, UnreadableError, check_size, reason

_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_MARK = b"ICC_PROFILE\0"
_ADOBE_MARK = b"Adobe"
#: Markers of frame headers, which hold the kind of JPEG (0xF7: JPEG-LS), the size and the channels.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_SCAN, _END, _APP0, _APP1, _APP2, _APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
#: Maximum number of segments before the first scan; more count as damage.
_MOST_SEGMENTS = 4096
#: Maximum file size in bytes per allowed pixel; larger files are refused.
_BYTES_PER_PIXEL = 4


@dataclass(slots=True)
class Header:
    """Content of a JPEG file before its first scan.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        bits: bits per channel.
        channels: number of channels: 1, 3 or 4.
        exif: first EXIF segment; empty if there is none.
        xmp: first XMP segment; empty if there is none.
        profile: the colour profile, joined from its segments; empty if there is none.
        adobe: whether there is an Adobe segment, without which CMYK values are not inverted.
        plain: the file without its metadata.
    """

    width: int = 0
    height: int = 0
    bits: int = 0
    channels: int = 0
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    adobe: bool = False
    plain: bytes = b""


def read(file: BinaryIO, settings: PictureSettings, notes: Notes) -> Pixels:
    """Return a JPEG file's picture; if there are several in the file (MPO), the first.

    Raises:
        UnreadableError: the file is too damaged for viewers, truncated, too large or of an unsupported kind.
    """
    most = _BYTES_PER_PIXEL * settings.max_pixels + (1 << 20)
    data = file.read(most + 1)
    if len(data) > most:
        raise UnreadableError(f"has more than {most} bytes, too many for JPEG of at most {settings.max_pixels} pixels")
    header = read_header(data)
    if header is None:
        return pixels_of(_through_pillow(data, settings, notes))
    check_size(header.width, header.height, settings.max_pixels)
    pixels = _decode(data, header, settings, notes)
    if header.profile and header.channels != 4:
        pixels = from_profile(pixels, header.profile, header.channels, notes)
    upright = orientation(entry_in(header.exif), header.xmp, notes) if header.exif or header.xmp else 1
    return pixels if upright == 1 else turned(pixels, upright)


def _decode(data: bytes, header: Header, settings: PictureSettings, notes: Notes) -> Pixels:
    if header.bits == 8 and header.channels in (1, 3):
        try:
            return _turbo(data)
        except ValueError:
            pass  # Pillow either reads the file or reports the error
        try:
            pixels = pixels_of(_through_pillow(header.plain, settings.model_copy(update={"truncated": False}), notes))
        except UnreadableError:
            if not settings.truncated:
                raise
            pixels = _what_there_is(data)
            notes.add(Note.INCOMPLETE)
        else:
            notes.add(Note.DAMAGED)
        return pixels
    picture = _through_pillow(header.plain, settings, notes)
    if picture.mode == "CMYK":
        return rgb_of_cmyk(picture, header.profile, inverted=not header.adobe, notes=notes)
    return pixels_of(picture)


def _turbo(data: bytes, strict: bool = True) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, strict=strict)
    return pixels


def _what_there_is(data: bytes) -> Pixels:
    try:
        return _turbo(data, strict=False)
    except ValueError as error:
        raise UnreadableError(f"cannot be decoded ({reason(error)})") from None


def _through_pillow(data: bytes, settings: PictureSettings, notes: Notes) -> JpegImageFile:
    """Return a picture decoded by Pillow as grey, RGB or CMYK.

    Raises:
        UnreadableError: Pillow refuses the file, or the picture is too large.
    """
    try:
        picture = JpegImageFile(BytesIO(data))
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise UnreadableError(f"cannot be decoded ({reason(error)})") from None
    check_size(*picture.size, settings.max_pixels)
    load(picture, settings, notes)
    return picture


def read_header(data: bytes) -> Header | None:
    """Return the content of a JPEG file before its first scan; ``None`` if it has no scan or no frame header.

    Stray bytes between segments are skipped, as viewers do.
    """
    header, profile = Header(), {}
    kept = [b"\xff\xd8"]
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        while at >= 0 and data[at + 1 : at + 2] == b"\xff":
            at += 1
        if at < 0 or at + 4 > len(data):
            return None
        marker = data[at + 1]
        if marker == _SCAN:
            break
        if marker == _END:
            return None
        if marker < 0xC0 or 0xD0 <= marker <= 0xD8:  # not a segment with a length
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        body = data[at + 4 : end]
        if marker in _FRAMES and len(body) >= 6 and not header.channels:
            header.bits, header.channels = body[0], body[5]
            header.height, header.width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        elif marker == _APP1 and body.startswith(EXIF_MARK):
            header.exif = header.exif or body
        elif marker == _APP1 and body.startswith(_XMP_MARK):
            header.xmp = header.xmp or body
        elif marker == _APP2 and body.startswith(_ICC_MARK) and len(body) > 14:
            profile[body[12]] = body[14:]
        elif marker == _APP14 and body.startswith(_ADOBE_MARK):
            header.adobe = True
        if not _APP0 < marker < 0xF0 or marker == _APP14:
            kept.append(data[at:end])
        at = max(end, at + 2)
    else:
        return None
    if not header.channels:
        return None
    header.profile = b"".join(profile[part] for part in sorted(profile))
    header.plain = b"".join([*kept, data[at:]]) if len(kept) > 1 else data
    return header
