"""Read the chunks of a PNG file that Pillow does not report, or whose damage makes Pillow refuse the file.

Chunks follow the PNG specification (Third Edition, W3C 2025).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from feddat.pictures.pixels import UnreadableError, Values

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks that determine the pixels.
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
#: Maximum size in bytes of a chunk that is read.
_MOST = 1 << 20
#: Transfer functions for HDR in cICP: PQ and HLG.
_HDR = (16, 18)
_SRGB_GAMMA = 2.2


@dataclass(slots=True)
class Facts:
    """Content of the chunks before the pixels.

    Attributes:
        bits: bits per channel.
        colour: the colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        significant: significant bits per channel (sBIT); ``None`` if not declared.
        gamma: exponent that values need for display.
        exif: EXIF data; empty if there is none.
    """

    bits: int = 8
    colour: int = 2
    significant: int | None = None
    gamma: float = 1.0
    exif: bytes = b""


def read_facts(file: BinaryIO) -> Facts:
    """Return the content of a PNG file's chunks before its pixels.

    Raises:
        UnreadableError: its colours are for HDR screens.
    """
    facts, says_srgb = Facts(), False
    for kind, body in _chunks(file, until=b"IDAT"):
        if kind == b"IHDR" and len(body) >= 10:
            facts.bits, facts.colour = body[8], body[9]
        elif kind == b"sBIT" and body:
            facts.significant = max(body)
        elif kind == b"eXIf":
            facts.exif = body
        elif kind in (b"sRGB", b"iCCP"):
            says_srgb = True
        elif kind == b"gAMA" and len(body) == 4 and any(body):
            facts.gamma = 100_000 / int.from_bytes(body) / _SRGB_GAMMA
        elif kind == b"cICP" and len(body) == 4:
            says_srgb = True
            if body[1] in _HDR:
                raise UnreadableError("colours for HDR screens (cICP) are not read; save it for common screens (sRGB)")
    if says_srgb:
        facts.gamma = 1.0
    return facts


def range_of(facts: Facts, values: Values) -> tuple[float, float]:
    """Return the values of black and white in 16-bit greys.

    sBIT declares the number of significant bits. By the specification these are the upper bits, but many programs store
    them as the lower bits. In that case no value needs more bits than sBIT, and some have bits that should be 0.
    """
    bits = facts.significant
    if bits is not None and 1 <= bits < 16 and int(values.max()) < 1 << bits:
        unused = (1 << (16 - bits)) - 1
        if (values & unused).any():
            return 0.0, float((1 << bits) - 1)
    return 0.0, 65535.0


def without_metadata(file: BinaryIO) -> BytesIO:
    """Return the file with only the chunks that determine its pixels. Damage in others is no reason to refuse it."""
    made = BytesIO()
    made.write(SIGNATURE)
    for kind, body in _chunks(file, most=None):
        if kind in _NEEDED:
            made.write(len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4))
    made.seek(0)
    return made


def _chunks(file: BinaryIO, until: bytes = b"", most: int | None = _MOST) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk before the first chunk of kind ``until``; too large ones have an empty body.

    Chunks that are incomplete or have a wrong checksum are skipped, except for pixels, whose decoder detects damage.
    """
    file.seek(len(SIGNATURE))
    while len(start := file.read(8)) == 8:
        length, kind = int.from_bytes(start[:4]), start[4:]
        if kind == until:
            return
        if most is not None and length > most:
            file.seek(length + 4, 1)
            yield kind, b""
            continue
        body, check = file.read(length), file.read(4)
        if kind == b"IDAT" or (len(check) == 4 and zlib.crc32(kind + body) == int.from_bytes(check)):
            yield kind, body
        if kind == b"IEND":
            return
