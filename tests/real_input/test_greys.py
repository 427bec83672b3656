"""Greys of more than 8 bits are scaled to 8 by the range that the file declares, or by the picture's percentiles."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from real_input.files import chunk, png, png16, saved, tiff


def sbit(bits: int) -> bytes:
    return chunk(b"sBIT", bytes([bits]))


def pgm(values, most: int) -> bytes:
    array = np.array(values)
    return b"P5 %d %d %d\n" % (array.shape[1], array.shape[0], most) + array.astype(">u2").tobytes()


def pfm(values) -> bytes:
    array = np.array(values, "<f4")
    return b"Pf\n%d %d\n-1.0\n" % (array.shape[1], array.shape[0]) + array[::-1].tobytes()


def u16(*values: int) -> np.ndarray:
    return np.array([values], np.uint16)


#: Name -> file of one row, the levels that it shows, and the notes about it.
DECLARED = {
    "PNG of 16 bits": (png16([[0, 128 * 257, 65535]]), [0, 128, 255], {Note.FULL_RANGE}),
    "PNG of 12 bits in the lower ones": (png16([[0, 2047, 4095]], sbit(12)), [0, 127, 255], {Note.DECLARED_RANGE}),
    "PNG of 12 bits in the upper ones": (png16([[0, 0x7FF7, 0xFFFF]], sbit(12)), [0, 127, 255], {Note.FULL_RANGE}),
    "dark PNG of 12 bits in the upper ones": (
        png16([[0, 0x0800, 0x0FF0]], sbit(12)), [0, 8, 16], {Note.FULL_RANGE, Note.FLAT}),
    "PNG of 10 bits": (png16([[0, 512, 1023]], sbit(10)), [0, 128, 255], {Note.DECLARED_RANGE}),
    "PNG of 12 bits that does not say so": (
        png16([[0, 2047, 4095]]), [0, 8, 16], {Note.FULL_RANGE, Note.FLAT}),
    "PNG with a clear value": (png16([[0, 500, 65535]], chunk(b"tRNS", b"\1\xf4")), [0, 255, 255], {Note.FULL_RANGE}),
    "TIFF of 16 bits": (tiff(u16(0, 32896, 65535)), [0, 128, 255], {Note.FULL_RANGE}),
    "TIFF of 16 bits, the larger first": (tiff(u16(0, 32896, 65535), order=">"), [0, 128, 255], {Note.FULL_RANGE}),
    "TIFF of 16 bits, compressed": (
        saved(Image.fromarray(u16(0, 32896, 65535)), "TIFF", compression="tiff_lzw"), [0, 128, 255], {Note.FULL_RANGE}),
    "TIFF of 12 bits": (tiff(u16(0, 2047, 4095, 1), 12), [0, 127, 255, 0], {Note.DECLARED_RANGE}),
    "TIFF of 12 bits in 16": (
        tiff(u16(0, 2047, 4095), smallest=0, largest=4095), [0, 127, 255], {Note.DECLARED_RANGE}),
    "TIFF from 100 to 300": (
        tiff(u16(0, 100, 200, 300, 999), smallest=100, largest=300), [0, 0, 128, 255, 255], {Note.DECLARED_RANGE}),
    "TIFF whose white is 0": (tiff(u16(0, 32896, 65535), photometric=0), [255, 127, 0], {Note.FULL_RANGE}),
    "TIFF of signed 16 bits": (
        tiff(np.array([[-32768, 0, 32767]]), form=2), [0, 128, 255], {Note.DECLARED_RANGE}),
    "TIFF of signed 8 bits": (tiff(np.array([[-128, 0, 127]]), 8, form=2), [0, 128, 255], {Note.DECLARED_RANGE}),
    "TIFF of 32 bits": (
        tiff(np.array([[0, 2**31, 2**32 - 1]]), 32), [0, 128, 255], {Note.DECLARED_RANGE}),
    "TIFF of floats": (tiff(np.array([[0, 0.5, 1]]), 32, form=3), [0, 128, 255], {Note.UNIT_RANGE}),
    "TIFF of floats whose white is 0": (
        tiff(np.array([[0, 0.5, 1]]), 32, form=3, photometric=0), [255, 127, 0], {Note.UNIT_RANGE}),
    "TIFF of floats from -1000 to 3000": (
        tiff(np.array([[-1000, 1000, 3000, 9000]]), 32, form=3, smallest=-1000, largest=3000),
        [0, 128, 255, 255], {Note.DECLARED_RANGE}),
    "TIFF of floats, some of them none": (
        tiff(np.array([[np.nan, 0.5, 1, 0]]), 32, form=3), [0, 128, 255, 0], {Note.UNIT_RANGE}),
    "PGM of 16 bits": (pgm([[0, 32896, 65535]], 65535), [0, 128, 255], {Note.FULL_RANGE}),
    "PGM of 12 bits": (pgm([[0, 2047, 4095]], 4095), [0, 127, 255], {Note.FULL_RANGE}),
    "PFM": (pfm([[0, 0.5, 1]]), [0, 128, 255], {Note.UNIT_RANGE}),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_the_declared_range_becomes_0_to_255(name):
    data, expected, told = DECLARED[name]
    reader = PictureReader()
    pixels = reader.read(data)
    assert pixels.shape == (1, len(expected), 3) and pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all()
    assert pixels[0, :, 0].tolist() == expected
    assert set(reader.notes.counts) == told


def test_jpeg_2000_of_12_bits_is_scaled():
    picture = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = PictureReader().read(saved(picture, "JPEG2000"))
    assert abs(pixels[..., 0].astype(int) - np.linspace(0, 255, 64 * 64).reshape(64, 64)).max() <= 1


@pytest.mark.parametrize(
    "data", [png16([[1000, 1500, 2000]] * 9), tiff(u16(1000, 1500, 2000).repeat(9, 0)),
             tiff(np.array([[-10, 0, 10]] * 9), form=2), tiff(np.array([[-9e9, 0, 9e9]] * 9), 32, form=3)]
)  # fmt: skip
def test_percentiles_spread_what_the_picture_uses(data):
    reader = PictureReader(PictureSettings(grey="percentiles"))
    assert reader.read(data)[0, :, 0].tolist() == [0, 128, 255]
    assert reader.notes.counts == {Note.PERCENTILES: 1}


def test_a_few_odd_values_do_not_decide_the_percentiles():
    values = np.full((40, 50), 1000, np.uint16)
    values[:, 25:] = 3000
    values[0, 0], values[0, 1] = 0, 65535
    pixels = PictureReader(PictureSettings(grey="percentiles")).read(saved(Image.fromarray(values), "PNG"))
    assert (pixels[5, 5], pixels[5, 45]) == (pytest.approx(0), pytest.approx(255))


def test_a_picture_of_one_value_is_scaled_as_declared_whatever_settings_say():
    reader = PictureReader(PictureSettings(grey="percentiles"))
    assert (reader.read(png16([[65535] * 4] * 4)) == 255).all()
    assert reader.notes.counts == {Note.FULL_RANGE: 1, Note.FLAT: 1}


@pytest.mark.parametrize("most", [1.5, 4095.0, np.inf])
def test_floats_of_no_declared_range_are_refused_or_spread(most):
    data = tiff(np.array([[0, 0.5, most], [0, 0.5, 1.5]]), 32, form=3)
    with pytest.raises(DataError, match=r"but declares no range; set pictures\.grey=percentiles$"):
        PictureReader().read(data)
    assert PictureReader(PictureSettings(grey="percentiles")).read(data)[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("bits", "levels"), [(1, [0, 255]), (2, [0, 85, 170, 255]), (4, [17 * n for n in range(16)])])
def test_fewer_bits_are_spread_and_their_clear_value_is_white(bits, levels):
    count = len(levels)
    packed = np.packbits(np.unpackbits(np.arange(count, dtype=np.uint8)[:, None], axis=1)[:, -bits:].reshape(-1))
    width = 8 // bits * len(packed)
    data = png(packed[None], bits, 0)
    assert PictureReader().read(data)[0, :count, 0].tolist() == levels and width >= count
    clear = png(packed[None], bits, 0, chunk(b"tRNS", b"\0\1"))
    expected = [255 if n == 1 else level for n, level in enumerate(levels)]
    assert PictureReader().read(clear)[0, :count, 0].tolist() == expected


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_colours_of_16_bits_are_read_by_their_upper_8_and_that_is_told(colour):
    channels = {2: 3, 4: 2, 6: 4}[colour]
    values = np.full((1, 2, channels), 0xFFFF, ">u2")
    values[0, 1, : 3 if colour == 6 else channels - (colour == 4)] = 0x80FF
    reader = PictureReader()
    pixels = reader.read(png(values.view(np.uint8).reshape(1, -1), 16, colour))
    assert pixels.tolist() == [[[255] * 3, [128] * 3]]
    assert reader.notes.counts == {Note.UPPER_BITS: 1}


def test_a_clear_colour_of_16_bits_is_white():
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0, 0, 0]]], ">u2")
    clear = chunk(b"tRNS", values[0, 0].tobytes())
    pixels = PictureReader().read(png(values.view(np.uint8).reshape(1, -1), 16, 2, clear))
    assert pixels.tolist() == [[[255] * 3, [0] * 3]]


@settings(max_examples=50)
@given(
    values=st.lists(st.integers(0, 65535), min_size=2, max_size=20),
    grey=st.sampled_from(["declared", "percentiles"]),
    form=st.sampled_from(["PNG", "TIFF"]),
)
def test_brighter_values_never_become_darker(values, grey, form):
    array = np.array([values], np.uint16)
    out = BytesIO()
    Image.fromarray(array).save(out, form)
    greys = PictureReader(PictureSettings(grey=grey)).read(out.getvalue())[0, :, 0]
    order = np.argsort(values, kind="stable")
    assert (np.diff(greys[order].astype(int)) >= 0).all()
    if grey == "declared":
        assert np.abs(greys - np.array(values) / 257).max() <= 0.5
