"""Detect the format of a file by its first bytes: formats that are read, and formats that are refused by name.

A decoder sees only files that begin like its format. Formats that start a program (PostScript), that are a language of
their own (SVG) or that are not used for photographs are refused.
"""

from __future__ import annotations

import re

from feddat.pictures.pixels import UnreadableError

#: Number of first bytes of a file that are enough to detect its format.
HEAD = 512
READ = ("JPEG", "PNG", "DICOM", "TIFF", "JPEG 2000", "WebP", "AVIF", "GIF", "BMP", "PNM")
#: First bytes of a file -> format, in the order in which they are checked.
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"BM": "BMP",
}
_REFUSED = {
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\xd8": "JPEG that ends after its first two bytes",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"\0\0\1\0": "Windows icon",
    b"\0\0\2\0": "TGA or Windows cursor",
    b"icns": "Apple icon",
    b"DDS ": "DirectDraw",
    b"qoif": "QOI",
    b"AT&T": "DjVu",
    b"SIMPLE  =": "FITS",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "NumPy",
    b"\xd7\xcd\xc6\x9a": "Windows metafile",
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "zip",
    b"IIU\0": "Panasonic raw",
    b"FUJIFILM": "Fujifilm raw",
}
_NETPBM = re.compile(rb"P[1-6Ff][\s#]")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!DOCTYPE|!--|svg|html)", re.IGNORECASE)
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def detect(head: bytes) -> str:
    """Return the format in :data:`READ` of a file that begins with ``head``, its first :data:`HEAD` bytes.

    Raises:
        UnreadableError: the file has none of these formats; the message names its format if that is known.
    """
    if head[128:132] == b"DICM":
        return "DICOM"
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if _NETPBM.match(head):
        return "PNM"
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if _may_be_bare_dicom(head):
        return "DICOM"
    for beginning, name in _REFUSED.items():
        if head.startswith(beginning):
            raise _refused(name)
    if _MARKUP.match(head):
        raise _refused("SVG, XML or HTML")
    if not head:
        raise UnreadableError("cannot be decoded (the file is empty)")
    raise UnreadableError(f"cannot be decoded (its first bytes match none of {', '.join(READ)})")


def _of_brands(head: bytes) -> str:
    """Return the format of a file of boxes (ISO 14496-12) by the brands that it declares."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if any(brand in _AVIF for brand in brands):
        return "AVIF"
    if any(brand in _HEIF for brand in brands):
        raise _refused("HEIC")
    raise _refused("a video or another format of boxes")


def _refused(name: str) -> UnreadableError:
    return UnreadableError(f"the format ({name}) is not read; save it as PNG or JPEG")


def _may_be_bare_dicom(head: bytes) -> bool:
    """Return whether a file may be old DICOM without a preamble: it begins with an element of a low group."""
    if len(head) < 132 or head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[4:8], "little")
    return explicit or length < 1 << 16
