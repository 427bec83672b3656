"""Colours as viewers show them: palettes, transparency, CMYK, Lab, colour profiles, gamma."""

import struct
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageCms

from feddat.example import DataError
from feddat.pictures import Note, PictureReader
from real_input.files import NOISE, SMOOTH, chunk, png, saved, with_segment


def read(data: bytes) -> np.ndarray:
    return PictureReader().read(data)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_white_is_white_in_every_mode(mode):
    white = Image.new("RGB", (5, 3), "white")
    white = Image.new("LAB", (5, 3), (255, 128, 128)) if mode == "LAB" else white.convert(mode)
    pixels = read(saved(white, "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"))
    assert pixels.shape == (3, 5, 3)
    assert pixels.min() >= (254 if mode == "LAB" else 255)


#: The row of pixels that every file in ``CLEAR`` must show.
RED_AND_CLEAR = [[255, 0, 0], [255, 255, 255]]
RGBA = np.array([[[255, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
PALETTE = Image.new("P", (2, 1))
PALETTE.putpalette([255, 0, 0, 0, 0, 0])
PALETTE.putpixel((1, 0), 1)
CLEAR = {
    "RGBA": saved(Image.fromarray(RGBA), "PNG"),
    "RGBA in TIFF": saved(Image.fromarray(RGBA), "TIFF"),
    "RGBA in WebP": saved(Image.fromarray(RGBA), "WEBP", lossless=True),
    "RGBA in JPEG 2000": saved(Image.fromarray(RGBA.repeat(8, 0)), "JPEG2000"),
    "a clear palette entry": saved(PALETTE, "PNG", transparency=1),
    "a palette of half clear entries": saved(PALETTE, "PNG", transparency=bytes([255, 0])),
    "a clear GIF entry": saved(PALETTE, "GIF", transparency=1),
    "a clear colour": saved(Image.fromarray(RGBA[..., :3]), "PNG", transparency=(0, 0, 0)),
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_white(name):
    assert read(CLEAR[name])[0].tolist() == RED_AND_CLEAR


def test_what_is_half_clear_is_half_white():
    half = np.array([[[255, 0, 0, 128]]], np.uint8)
    assert read(saved(Image.fromarray(half), "PNG")).tolist() == [[[255, 127, 127]]]
    assert read(saved(Image.fromarray(np.array([[[0, 64]]], np.uint8)), "PNG")).tolist() == [[[191] * 3]]


# CMYK: patches of 100 % cyan, 50 % magenta, 50 % yellow and 25 % black
INKS = np.array([[[255, 0, 0, 0], [0, 128, 0, 0], [0, 0, 128, 0], [0, 0, 0, 64]]], np.uint8).repeat(8, 0).repeat(8, 1)
INKS_SHOWN = np.array([[0, 255, 255], [255, 127, 255], [255, 255, 127], [191, 191, 191]])


def without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def test_inks_are_the_same_with_and_without_the_inversion_of_adobe():
    picture = Image.fromarray(INKS, "CMYK")
    adobe = saved(picture, "JPEG", quality=100)  # Pillow writes CMYK as Adobe does: inverted, with Adobe's segment
    plain = without_adobe(saved(Image.fromarray(255 - INKS, "CMYK"), "JPEG", quality=100))
    for data in (adobe, plain, saved(picture, "TIFF"), saved(picture, "TIFF", compression="jpeg", quality=100)):
        shown = read(data)[4, 4::8].astype(int)
        assert np.abs(shown - INKS_SHOWN).max() <= 3


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [((54.29, 80.81, 69.89), (255, 0, 0)), ((87.82, -79.29, 80.99), (0, 255, 0)), ((53.59, 0, 0), (128, 128, 128))],
)
def test_lab_is_what_it_is_defined_as(lab, rgb):
    """The values are sRGB's red, green and middle grey in CIE L*a*b* under D50."""
    stored = tuple(round(value) for value in (lab[0] * 2.55, lab[1] + 128, lab[2] + 128))
    shown = read(saved(Image.new("LAB", (2, 2), stored), "TIFF"))[0, 0].astype(int)
    assert np.abs(shown - rgb).max() <= 16  # dark values are steep in sRGB, and L*a*b* is stored in whole numbers


# Colour profiles


def s15(value: float) -> bytes:
    return struct.pack(">l", round(value * 65536))


@cache
def profile(gamma: float, primaries: str = "srgb", space: bytes = b"RGB ") -> bytes:
    """Return a version 2 display profile with only primaries and a gamma."""
    xyz = {
        "srgb": [(0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)],
        "swapped": [(0.1431, 0.0606, 0.7141), (0.3851, 0.7169, 0.0971), (0.4360, 0.2225, 0.0139)],
    }[primaries]
    curve = b"curv\0\0\0\0" + (1).to_bytes(4) + round(gamma * 256).to_bytes(2) + b"\0\0"
    point = lambda values: b"XYZ \0\0\0\0" + b"".join(map(s15, values))  # noqa: E731
    text = b"text\0\0\0\0made here\0\0\0"
    description = b"desc\0\0\0\0" + (2).to_bytes(4) + b"x\0" + bytes(78)
    tags = {b"cprt": text, b"desc": description + bytes(-len(description) % 4), b"wtpt": point((0.9642, 1, 0.8249))}
    if space == b"RGB ":
        tags |= {name: point(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True)}
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    else:
        tags[b"kTRC"] = curve
    table, body, at = len(tags).to_bytes(4), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + (at + len(body)).to_bytes(4) + len(value).to_bytes(4)
        body += value
    size = (128 + len(table) + len(body)).to_bytes(4)
    head = size + b"lcms" + b"\2\x20\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += b"".join(map(s15, (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = {
    "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_profile_that_swaps_red_and_blue_does(form):
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    reader = PictureReader()
    pixels = reader.read(saved(flat, form, icc_profile=profile(2.2, "swapped"), **FORMATS[form]))
    assert np.abs(pixels[8, 8].astype(int) - (50, 100, 200)).max() <= 6
    assert reader.notes.counts == {Note.PROFILE: 1}


@pytest.mark.parametrize("form", FORMATS)
def test_srgb_in_other_words_changes_nothing(form):
    reader = PictureReader()
    pixels = reader.read(saved(NOISE, form, icc_profile=SRGB, **FORMATS[form]))
    assert np.array_equal(pixels, read(saved(NOISE, form, **FORMATS[form])))
    assert not reader.notes.counts


def test_greys_follow_their_profile_and_not_one_of_colours():
    grey, deep = np.full((8, 8), 100, np.uint8), np.full((8, 8), 100 * 257, np.uint16)
    expected = round(255 * ((100 / 255) ** (1.0)) ** (1 / 2.4))  # about what linear light of 100 / 255 looks like
    for picture, form in ((grey, "PNG"), (grey, "JPEG"), (grey, "TIFF"), (deep, "PNG")):
        pixels = read(saved(Image.fromarray(picture), form, icc_profile=profile(1.0, space=b"GRAY")))
        assert abs(int(pixels[4, 4, 0]) - expected) <= 6
        plain = read(saved(Image.fromarray(picture), form, icc_profile=profile(2.2, "swapped")))
        assert plain[4, 4].tolist() == [100] * 3


def test_a_profile_applies_below_what_is_clear():
    half = np.array([[[200, 100, 50, 128]]], np.uint8)
    shown = read(saved(Image.fromarray(half), "PNG", icc_profile=profile(2.2, "swapped")))[0, 0].astype(int)
    assert np.abs(shown - (152, 177, 227)).max() <= 4


@pytest.mark.parametrize(
    "junk", [b"junk", profile(2.2)[:200], b"\0" * 300, profile(2.2, "swapped").replace(b"acsp", b"nope")]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_profile_that_cannot_be_used_is_passed_over(junk, form):
    pixels = read(saved(SMOOTH, form, icc_profile=junk, **FORMATS[form]))
    assert np.array_equal(pixels, read(saved(SMOOTH, form, **FORMATS[form])))


def test_a_profile_in_pieces_is_put_together():
    whole, mark = profile(2.2, "swapped"), b"ICC_PROFILE\0"
    data = saved(np.full((16, 16, 3), (200, 100, 50), np.uint8), "JPEG", quality=100, subsampling=0)
    for number, piece in ((2, whole[150:]), (1, whole[:150])):
        data = with_segment(data, 0xE2, mark + bytes([number, 2]) + piece)
    assert np.abs(read(data)[8, 8].astype(int) - (50, 100, 200)).max() <= 6


# Gamma and HDR in PNG


def rgb_png(*chunks: bytes, level: int = 100) -> bytes:
    return png(np.full((2, 6), level, np.uint8), 8, 2, *chunks)


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", round(100_000 * value).to_bytes(4))


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        ([], 100),
        ([gamma(1 / 2.2)], 100),
        ([gamma(1.0)], round(255 * (100 / 255) ** (1 / 2.2))),
        ([gamma(1 / 1.8)], round(255 * (100 / 255) ** (1.8 / 2.2))),
        ([gamma(1.0), chunk(b"sRGB", b"\0")], 100),
        ([gamma(0.0)], 100),
        ([gamma(0.00001)], 100),
        ([chunk(b"gAMA", b"\1")], 100),
        ([chunk(b"cICP", bytes([1, 13, 0, 1])), gamma(1.0)], 100),
    ],
)
def test_a_gamma_is_followed_where_nothing_better_is_said(chunks, shown):
    assert read(rgb_png(*chunks))[0, 0].tolist() == [shown] * 3


@pytest.mark.parametrize("transfer", [16, 18])
def test_colours_for_hdr_screens_are_refused_by_name(transfer):
    avif = saved(SMOOTH, "AVIF")
    at = avif.index(b"colrnclx") + 8
    data = {
        "PNG": rgb_png(chunk(b"cICP", bytes([9, transfer, 0, 1]))),
        "AVIF": avif[:at] + struct.pack(">HH", 9, transfer) + avif[at + 4 :],
    }
    for name in data:
        with pytest.raises(DataError, match=r"^image in memory: colours for HDR screens .*save it for common screens"):
            read(data[name])
    assert read(avif).shape == SMOOTH.shape
