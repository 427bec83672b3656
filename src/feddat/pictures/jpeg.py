"""JPEG: straight through libjpeg-turbo for the most part, through Pillow where that is too strict.

Files of scanners and old phones have bytes between their segments that belong nowhere, and disks flip bits. Browsers
and Pillow read such files, simplejpeg does not: whatever it refuses goes to Pillow, with the segments that hold
metadata taken out, for those decide nothing here.
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
#: Markers of frames: what kind of JPEG it is (0xF7: JPEG-LS), its size and its channels.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_SCAN, _END, _APP0, _APP1, _APP2, _APP14 = 0xDA, 0xD9, 0xE0, 0xE1, 0xE2, 0xEE
#: Segments with a length that may stand before the first scan; more are taken for damage.
_MOST_SEGMENTS = 4096
#: A JPEG file of so many bytes per pixel that may be decoded is taken for something else.
_BYTES_PER_PIXEL = 4


@dataclass(slots=True)
class Header:
    """What stands before a JPEG file's first scan.

    Attributes:
        width: in pixels.
        height: in pixels.
        bits: per channel.
        channels: 1, 3 or 4.
        exif: of the first such segment; empty where there is none.
        xmp: the same.
        profile: the colour profile, put together; empty where there is none.
        adobe: whether Adobe's segment is there, without which CMYK is not inverted.
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
    """Return a JPEG file's picture; of several in one file (MPO) the first.

    Raises:
        UnreadableError: it is damaged beyond what viewers read, cut short, too large, or of a kind that none decodes.
    """
    most = _BYTES_PER_PIXEL * settings.max_pixels + (1 << 20)
    data = file.read(most + 1)
    if len(data) > most:
        raise UnreadableError(f"more than {most} bytes of JPEG for at most {settings.max_pixels} pixels")
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
            pass  # Pillow shall say what is wrong, if anything is
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
    """Return a picture decoded by Pillow, grey, RGB or CMYK.

    Raises:
        UnreadableError: Pillow refuses it, or it is too large.
    """
    try:
        picture = JpegImageFile(BytesIO(data))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UnreadableError(f"cannot be decoded ({reason(error)})") from None
    check_size(*picture.size, settings.max_pixels)
    load(picture, settings, notes)
    return picture


def read_header(data: bytes) -> Header | None:
    """Return what stands before a JPEG file's first scan; ``None`` if there is no scan to be found, or no frame.

    Bytes between segments are passed over, as viewers do.
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
        if marker < 0xC0 or 0xD0 <= marker <= 0xD8:  # no segment begins here
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
