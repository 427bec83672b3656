"""Small files like those found in practice, made here: whole, odd and damaged ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
#: A smooth picture, which JPEG hardly changes: red grows to the right, green to the bottom.
SMOOTH = np.stack(
    [np.tile(np.linspace(0, 255, 56), (40, 1)), np.tile(np.linspace(0, 255, 40), (56, 1)).T, np.full((40, 56), 90)], 2
).astype(np.uint8)


def saved(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    """Return a picture as a file's bytes."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """Return a file's pixels as Pillow decodes them."""
    with Image.open(BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """Return a JPEG file with one more segment, after its first two bytes."""
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2) + body + data[2:]


def before_marker(data: bytes, marker: int, junk: bytes) -> bytes:
    """Return a JPEG file with stray bytes before its first segment with a marker."""
    at = data.index(bytes([0xFF, marker]), 2)
    return data[:at] + junk + data[at:]


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """Return EXIF with directory entries of tag, type, count, value (above 4 bytes, it follows the directory)."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    behind, at = b"", 8 + 2 + 12 * len(entries) + 4
    rows = []
    for tag, kind, count, value in entries:
        if len(value) > 4:
            stored, behind = struct.pack(f"{order}L", at + len(behind)), behind + value
        else:
            stored = value.ljust(4, b"\0")
        rows.append(struct.pack(f"{order}HHL", tag, kind, count) + stored)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(rows) + b"\0\0\0\0"
    return b"Exif\0\0" + start + directory + behind


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def png(rows: np.ndarray, bits: int, colour: int, *chunks: bytes) -> bytes:
    """Return a PNG file of rows of bytes (H, bytes per row), with chunks before the pixels."""
    width = rows.shape[1] * 8 // bits // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    head = struct.pack(">LLBBBBB", width, rows.shape[0], bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return SIGNATURE + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png16(values, *chunks: bytes) -> bytes:
    """Return a grey PNG file of 16 bits."""
    array = np.array(values, ">u2")
    return png(array.view(np.uint8).reshape(len(array), -1), 16, 0, *chunks)


def tiff(values: np.ndarray, bits: int = 16, order: str = "<", photometric: int = 1, form: int = 1, **tags) -> bytes:
    """Return a grey TIFF file of one strip, not compressed.

    Args:
        values: numbers (H, W); with 12 bits, two are packed into three bytes.
        bits: bits per number.
        order: byte order, ``<`` or ``>``.
        photometric: 1 if larger numbers are brighter, 0 if they are darker.
        form: 1 for unsigned whole numbers, 2 for signed ones, 3 for floating-point numbers.
        tags: by name: ``smallest``, ``largest`` (stored in 8 bytes), ``orientation`` (type, bytes of the value).
    """
    height, width = values.shape
    if bits == 12:
        digits = "".join(f"{value:03x}" for value in values.reshape(-1))
        pixels = bytes.fromhex(digits + "0" * (len(digits) % 2))
    else:
        kind = {1: "u", 2: "i", 3: "f"}[form]
        pixels = values.astype(f"{order}{kind}{bits // 8}").tobytes()
    short, long = (lambda v: (3, 1, struct.pack(f"{order}H", v))), (lambda v: (4, 1, struct.pack(f"{order}L", v)))
    entries = {
        256: long(width), 257: long(height), 258: short(bits), 259: short(1), 262: short(photometric),
        273: long(8), 277: short(1), 278: long(height), 279: long(len(pixels)), 339: short(form),
    }  # fmt: skip
    for name, tag in (("smallest", 340), ("largest", 341)):
        if name in tags:
            entries[tag] = (12, 1, struct.pack(f"{order}d", tags[name]))
    if "orientation" in tags:
        kind, value = tags["orientation"]
        entries[274] = (kind, len(value) if kind in (1, 2) else 1, value)
    at = 8 + len(pixels) + len(pixels) % 2
    behind, rows = b"", []
    after = at + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in sorted(entries.items()):
        if len(value) > 4:
            stored, behind = struct.pack(f"{order}L", after + len(behind)), behind + value
        else:
            stored = value.ljust(4, b"\0")
        rows.append(struct.pack(f"{order}HHL", tag, kind, count) + stored)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", at)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(rows) + b"\0\0\0\0"
    return head + pixels + b"\0" * (len(pixels) % 2) + directory + behind
