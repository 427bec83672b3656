"""Which formats are read and which are refused, by first bytes; several pictures in one file; too many pixels."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from feddat.pictures.formats import READ
from real_input.files import NOISE, SIGNATURE, SMOOTH, chunk, saved

LOSSLESS = {
    "PNG": saved(NOISE, "PNG"), "TIFF": saved(NOISE, "TIFF"), "TIFF, LZW": saved(NOISE, "TIFF", compression="tiff_lzw"),
    "TIFF, big": saved(NOISE, "TIFF", big_tiff=True), "BMP": saved(NOISE, "BMP"), "PNM": saved(NOISE, "PPM"),
    "WebP": saved(NOISE, "WEBP", lossless=True), "JPEG 2000": saved(NOISE, "JPEG2000"),
    "JPEG 2000, bare": saved(NOISE, "JPEG2000", no_jp2=True),
}  # fmt: skip
LOSSY = {
    "JPEG": saved(SMOOTH, "JPEG", quality=95), "WebP": saved(SMOOTH, "WEBP", quality=95), "GIF": saved(SMOOTH, "GIF"),
    "AVIF": saved(SMOOTH, "AVIF", quality=95), "TIFF, JPEG": saved(SMOOTH, "TIFF", compression="jpeg", quality=95),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSLESS)
def test_formats_without_loss_give_every_pixel_from_files_and_memory_whatever_the_file_is_called(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(LOSSLESS[name])
    reader = PictureReader()
    for image in (tmp_path / "a.jpg", LOSSLESS[name]):
        pixels = reader.read(image)
        assert np.array_equal(pixels, NOISE)
        assert pixels.flags.writeable and pixels.flags.c_contiguous
    assert not reader.notes.counts


@pytest.mark.parametrize("name", LOSSY)
def test_formats_with_loss_give_nearly_every_pixel(name):
    assert np.abs(PictureReader().read(LOSSY[name]).astype(int) - SMOOTH).mean() < (12 if name == "GIF" else 3)


REFUSED = {
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "PDF": b"%PDF-1.7\n", "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "XML": b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "HTML": b"\n<!DOCTYPE html><title>not found</title>",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, second brand": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "video": b"\0\0\0\x18ftypisom\0\0\2\0isommp41", "JPEG XL": b"\xff\x0a\0\0", "OpenEXR": b"\x76\x2f\x31\x01\2\0\0\0",
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n", "Radiance HDR": b"#?RADIANCE\n", "Photoshop": b"8BPS\0\1",
    "Windows icon": saved(SMOOTH, "ICO"), "TGA": saved(SMOOTH, "TGA"),
    "DirectDraw": saved(SMOOTH, "DDS"), "QOI": b"qoif\0\0\0\1\0\0\0\1\4\0",
    "FITS": b"SIMPLE  =                    T", "NumPy": b"\x93NUMPY\1\0", "zip": b"PK\3\4", "gzip": b"\x1f\x8b\x08\0",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_refused_by_name_in_one_line_that_says_what_to_do(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(REFUSED[name].ljust(64, b"\0"))
    with pytest.raises(DataError) as caught:
        PictureReader().read(path)
    message = str(caught.value)
    assert message.startswith(f"image {path}: the format (") and message.endswith("is not read; save it as PNG or JPEG")
    assert "\n" not in message
    assert name.split(",")[0].split(" in ")[0].lower() in message.lower()


@pytest.mark.parametrize("content", [b"", b"not an image", b"\0" * 2000, b"\x0a\5\1\1"])
def test_what_begins_like_nothing_is_refused(content):
    with pytest.raises(
        DataError, match=r"^image in memory: cannot be decoded \((the file is empty|its first bytes match)"
    ):
        PictureReader().read(content)


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_what_is_cut_short_is_refused_in_one_line_and_read_where_settings_say_so(name, kept):
    whole = (LOSSLESS | LOSSY)[name]
    cut = whole[: round(len(whole) * kept)]
    with pytest.raises(DataError, match=r"^image in memory: [^\n]*$"):
        PictureReader().read(cut)
    reader = PictureReader(PictureSettings(truncated=True))
    try:
        pixels = reader.read(cut)
    except DataError as error:  # some formats yield nothing when cut
        assert "\n" not in str(error)
        assert kept < 0.9 or not name.startswith(("PNG", "PNM", "BMP", "JPEG,", "GIF"))
    else:
        assert pixels.shape == NOISE.shape and reader.notes.counts[Note.INCOMPLETE] == 1
        assert pixels.any()


def test_arrays_are_taken_as_they_are_or_refused():
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert PictureReader().read(pixels) is pixels
    for array in (
        pixels.astype("float32"),
        pixels[..., 0],
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((0, 3, 3), np.uint8),
    ):
        with pytest.raises(DataError, match=r"expected uint8 of shape \(H, W, 3\)"):
            PictureReader().read(array)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: no such file$"):
        PictureReader().read(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"Is a directory$"):
        PictureReader().read(tmp_path)


# Several pictures in one file

LEVELS = (40, 80, 120, 160, 200)
SEVERAL = {"TIFF": {}, "GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "AVIF": {"quality": 100}}


def several(form: str, count: int = 5) -> bytes:
    pictures = [Image.new("RGB", (16, 16), (level,) * 3) for level in LEVELS[:count]]
    return saved(pictures[0], form, save_all=True, append_images=pictures[1:], **SEVERAL[form])


@pytest.mark.parametrize("form", SEVERAL)
@pytest.mark.parametrize(("frame", "level"), [(1, 40), (2, 80), (5, 200), ("middle", 120)])
def test_of_several_pictures_the_one_that_settings_say_is_read_and_that_is_told(form, frame, level):
    reader = PictureReader(PictureSettings(frame=frame))
    pixels = reader.read(several(form))
    assert pixels.shape == (16, 16, 3) and np.abs(pixels.astype(int) - level).max() <= 1
    assert reader.notes.counts == {Note.FRAMES: 1}


@pytest.mark.parametrize("form", SEVERAL)
def test_a_picture_that_a_file_has_not_is_refused(form):
    with pytest.raises(DataError, match=r"^image in memory: the file holds 5 pictures, but pictures\.frame is 6$"):
        PictureReader(PictureSettings(frame=6)).read(several(form))
    reader = PictureReader(PictureSettings(frame=6))
    assert reader.read(several(form, 1)).shape == (16, 16, 3)  # with one picture there is nothing to choose
    assert not reader.notes.counts


# Too many pixels


def large_png(side: int) -> bytes:
    """Return a small PNG file of a large black picture, without making the picture."""
    packer, rows = zlib.compressobj(9), bytes(1 + side * 3)
    body = b"".join(packer.compress(rows) for _ in range(side)) + packer.flush()
    head = side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_pictures_of_too_many_pixels_are_refused_before_they_are_decoded(name, monkeypatch):
    data, pixels = (LOSSLESS | LOSSY)[name], NOISE.shape[0] * NOISE.shape[1]
    assert PictureReader(PictureSettings(max_pixels=pixels)).read(data).shape == NOISE.shape
    for module in ("still", "jpeg"):
        monkeypatch.setattr(f"feddat.pictures.{module}.load", lambda *arguments: pytest.fail("decoded"))
    monkeypatch.setattr("feddat.pictures.jpeg._turbo", lambda *arguments: pytest.fail("decoded"))
    refused = rf"^image in memory: 56 x 40 pixels are more than pictures\.max_pixels \({pixels - 1}\) allows; make it"
    with pytest.raises(DataError, match=refused):
        PictureReader(PictureSettings(max_pixels=pixels - 1)).read(data)


PROGRAM = """
import resource, sys
from pathlib import Path
from feddat.pictures import PictureReader

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

before = peak()
for name in sys.argv[1:]:
    try:
        print(PictureReader().read(Path(name)).shape, end=" ")
    except ValueError as error:
        print(error, end=" ")
    print(peak() - before)
"""


def test_a_small_file_of_many_pixels_takes_no_memory_and_a_large_picture_little_more_than_its_pixels(tmp_path):
    """The first file has 169 million pixels, which would take more than 1 GB when decoded."""
    sides = {"bomb.png": 13_000, "large.png": 4_000}
    for name, side in sides.items():
        (tmp_path / name).write_bytes(large_png(side))
    run = [sys.executable, "-c", PROGRAM, *(str(tmp_path / name) for name in sides)]
    refused, read = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "bomb.png: 13000 x 13000 pixels are more than pictures.max_pixels (100000000) allows" in refused
    assert int(refused.split()[-1]) <= 16  # MiB
    assert read.startswith("(4000, 4000, 3) ")
    # Per pixel, Pillow takes four bytes and the result three; a strip comes on top.
    assert int(read.split()[-1]) <= (7 * 4000 * 4000 >> 20) + 32


def test_every_format_that_is_read_is_tried_here():
    tried = {name.split(",")[0] for name in [*LOSSLESS, *LOSSY]}
    assert tried | {"DICOM"} == set(READ)
