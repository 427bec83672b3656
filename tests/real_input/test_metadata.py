"""EXIF and similar metadata can turn a picture, and change nothing else, however malformed they are."""

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from feddat.pictures import Note, PictureReader
from real_input.files import NOISE, chunk, exif, png, saved, tiff, with_segment

ORIENTATION, WIDTH, X_RESOLUTION, EXIF_IFD = 0x0112, 0x0100, 0x011A, 0x8769
PLAIN = saved(NOISE, "JPEG", quality=95)
SHORT, ASCII, BYTE = 3, 2, 1


def short(value: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return ORIENTATION, SHORT, 1, struct.pack(f"{order}H", value)


def jpeg_with(data: bytes) -> bytes:
    return with_segment(PLAIN, 0xE1, data)


def upright(pixels: np.ndarray, value: int) -> np.ndarray:
    """Return a picture as Pillow turns it for this orientation."""
    image, told = Image.fromarray(pixels), Image.Exif()
    told[ORIENTATION] = value
    out = BytesIO()
    image.save(out, "PNG", exif=told)
    return np.array(ImageOps.exif_transpose(Image.open(out)))


STORED = PictureReader().read(PLAIN)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation_turns_a_picture_as_pillow_does(value, order):
    reader = PictureReader()
    pixels = reader.read(jpeg_with(exif(short(value, order), order=order)))
    assert np.array_equal(pixels, upright(STORED, value))
    assert pixels.flags.c_contiguous and not reader.notes.counts


#: Orientation 6 in every type that a number or a text fits into.
TYPES = {
    "ASCII": (ASCII, 2, b"6\0"),
    "BYTE": (BYTE, 1, b"\6"),
    "LONG": (4, 1, struct.pack("<L", 6)),
    "RATIONAL": (5, 1, struct.pack("<LL", 6, 1)),
    "SBYTE": (6, 1, b"\6"),
    "UNDEFINED": (7, 1, b"\6"),
    "SSHORT": (8, 1, struct.pack("<h", 6)),
    "SLONG": (9, 1, struct.pack("<l", 6)),
    "SRATIONAL": (10, 1, struct.pack("<ll", 12, 2)),
    "FLOAT": (11, 1, struct.pack("<f", 6)),
    "DOUBLE": (12, 1, struct.pack("<d", 6)),
    "two SHORTs": (SHORT, 2, struct.pack("<HH", 6, 1)),
    "three SHORTs": (SHORT, 3, struct.pack("<HHH", 6, 1, 1)),
}


@pytest.mark.parametrize("name", TYPES)
def test_an_orientation_of_any_type_is_followed(name):
    reader = PictureReader()
    pixels = reader.read(jpeg_with(exif((ORIENTATION, *TYPES[name]))))
    assert np.array_equal(pixels, np.rot90(STORED, -1))
    assert (reader.notes.counts[Note.ORIENTATION] == 1) == ("SHORT" not in name or name == "SSHORT")


MALFORMED = {
    "resolution as text": exif(short(6), (X_RESOLUTION, ASCII, 3, b"72\0")),
    "width as text": exif((WIDTH, ASCII, 3, b"640"), short(6)),
    "width as a signed fraction": exif((WIDTH, 10, 1, struct.pack("<ll", -640, 1)), short(6)),
    "width of no type": exif((WIDTH, 99, 1, b"\1\2\3\4"), short(6)),
    "a directory at the end of the world": exif((EXIF_IFD, 4, 1, b"\xff\xff\xff\x7f"), short(6)),
    "a directory that is itself": exif((EXIF_IFD, 4, 1, struct.pack("<L", 8)), short(6)),
    "a billion values": exif((X_RESOLUTION, 5, 1 << 30, b"\0\0\0\0"), short(6)),
    "more entries than there are": exif(short(6))[:14] + b"\xff\xff" + exif(short(6))[16:],
}
USELESS = {
    "no entry": exif(),
    "nothing": b"Exif\0\0",
    "a header alone": b"Exif\0\0II*\0",
    "no header": b"Exif\0\0" + bytes(range(60)),
    "orientation 0": exif(short(0)),
    "orientation 9": exif(short(9)),
    "orientation left": exif((ORIENTATION, ASCII, 5, b"left\0")),
    "orientation without a value": exif((ORIENTATION, SHORT, 0, b"")),
    "orientation 6 / 0": exif((ORIENTATION, 5, 1, struct.pack("<LL", 6, 0))),
    "orientation not a number": exif((ORIENTATION, 11, 1, struct.pack("<f", float("nan")))),
    "orientation elsewhere": exif((ORIENTATION, 4, 100, struct.pack("<L", 1 << 31))),
}
CARRIERS = {
    "JPEG": jpeg_with,
    "PNG": lambda data: saved(NOISE, "PNG", exif=data.removeprefix(b"Exif\0\0")),
    "PNG, of old": lambda data: png_of_old(data),
    "WebP": lambda data: saved(NOISE, "WEBP", lossless=True, exif=data),
    "AVIF": lambda data: avif(data),
}


def avif(data: bytes) -> bytes:
    """Return an AVIF file with EXIF, which turns nothing in AVIF, and with the box that turns it in the same way."""
    told = Image.Exif()
    told[0x010E] = "x" * 300
    told[ORIENTATION] = 6 if data in MALFORMED.values() else 1
    made = saved(NOISE, "AVIF", quality=100, subsampling="4:4:4", exif=told)
    end = made.index(b"x" * 300) + 300
    start = max(made.rfind(b"II*\0", 0, end), made.rfind(b"MM\0*", 0, end))
    return made[:start] + data.removeprefix(b"Exif\0\0").ljust(end - start, b"\0") + made[end:]


def png_of_old(data: bytes) -> bytes:
    """Return a PNG file with EXIF as ImageMagick wrote it before PNG had a chunk for it."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = b"Raw profile type exif\0" + f"\nexif\n{len(data):8d}\n{lines}\n".encode()
    return png(NOISE.reshape(40, -1), 8, 2, chunk(b"tEXt", text))


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", MALFORMED)
def test_what_else_is_malformed_does_not_matter(name, carrier):
    pixels = PictureReader().read(CARRIERS[carrier](MALFORMED[name]))
    there = PictureReader().read(CARRIERS[carrier](exif()))
    assert np.array_equal(pixels, np.rot90(there, -1))


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", USELESS)
def test_an_invalid_orientation_is_ignored(name, carrier):
    assert PictureReader().read(CARRIERS[carrier](USELESS[name])).shape == NOISE.shape


@settings(max_examples=60)
@given(data=st.binary(max_size=120), carrier=st.sampled_from(["JPEG", "PNG", "WebP"]))
def test_no_metadata_refuses_a_picture(data, carrier):
    pixels = PictureReader().read(CARRIERS[carrier](b"Exif\0\0MM\0*" + data))
    assert sorted(pixels.shape[:2]) == sorted(NOISE.shape[:2])


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</x:xmpmeta>'


@pytest.mark.parametrize("told", [b'tiff:Orientation="6"/>', b"tiff:Orientation='6'/>",
                                  b"><tiff:Orientation>6</tiff:Orientation>"])  # fmt: skip
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_in_xmp_counts_where_exif_has_none(told, form):
    xmp = XMP % told
    if form == "JPEG":
        data = with_segment(PLAIN, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    elif form == "PNG":
        data = png(NOISE.reshape(40, -1), 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    elif form == "TIFF":
        data = saved(NOISE, "TIFF", tiffinfo={700: xmp})
    else:
        data = saved(NOISE, form, xmp=xmp, lossless=True)
    assert PictureReader().read(data).shape == (56, 40, 3)
    if form == "JPEG":
        assert PictureReader().read(with_segment(data, 0xE1, exif(short(3)))).shape == (40, 56, 3)


@pytest.mark.parametrize("value", range(1, 9))
def test_a_tiff_file_is_turned_by_its_own_entry(value):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for kind, raw in ((SHORT, struct.pack("<H", value)), (ASCII, b"%d\0" % value), (BYTE, bytes([value])),
                      (4, struct.pack("<L", value))):  # fmt: skip
        pixels = PictureReader().read(tiff(stored, 8, orientation=(kind, raw)))
        assert np.array_equal(pixels[..., 0], upright(stored, value))


def test_a_compressed_tiff_file_is_turned_too():
    stored = saved(NOISE, "TIFF", compression="tiff_deflate", tiffinfo={ORIENTATION: 6})
    assert np.array_equal(PictureReader().read(stored), np.rot90(NOISE, -1))


@pytest.mark.parametrize("chunks", [(b"tEXt", b"Comment\0x"), (b"eXIf", b"nothing"), (b"iCCP", b"name\0\0junk"),
                                    (b"zTXt", b"x\0\0junk"), (b"pHYs", b"\1")])  # fmt: skip
def test_a_damaged_chunk_of_metadata_does_not_refuse_a_png_file(chunks):
    whole = chunk(*chunks)
    for damaged in (whole[:-4] + b"\0\0\0\0", whole):
        data = png(NOISE.reshape(40, -1), 8, 2, damaged)
        assert np.array_equal(PictureReader().read(data), NOISE)
