"""JPEG files as scanners, phones and disks leave them: if viewers read a file, so do we, with the same pixels."""

import numpy as np
import pytest
from PIL import Image

from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from real_input.files import NOISE, SMOOTH, before_marker, by_pillow, saved, with_segment

DQT, DHT, SOF, SOS, EOI, RESTART = 0xDB, 0xC4, 0xC0, 0xDA, 0xD9, 0xD0
PLAIN = saved(NOISE, "JPEG", quality=90)
RESTARTS = saved(NOISE, "JPEG", restart_marker_rows=1)


def flipped(data: bytes, behind: int) -> bytes:
    """Return a JPEG file with one bit of its scan changed, about ``behind`` bytes after the scan's start."""
    at = data.index(bytes([0xFF, SOS])) + 14 + behind
    while 0xFF in data[at - 1 : at + 2]:
        at += 1
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def without_restart(data: bytes) -> bytes:
    at = data.index(bytes([0xFF, RESTART + 1]), data.index(bytes([0xFF, SOS])))
    return data[:at] + data[at + 2 :]


DAMAGED = {
    "four bytes before DQT": before_marker(PLAIN, DQT, b"\1\2\3\4"),
    "a byte before DHT": before_marker(PLAIN, DHT, b"\0"),
    "bytes before SOF": before_marker(PLAIN, SOF, b"scanner"),
    "bytes before SOS": before_marker(PLAIN, SOS, b"\0\0\0\0"),
    "bytes before EOI": PLAIN[:-2] + b"\1\2\3\4" + PLAIN[-2:],
    "a flipped bit": flipped(PLAIN, 500),
    "another flipped bit": flipped(PLAIN, 1500),
    "a flipped bit between restarts": flipped(RESTARTS, 700),
    "a missing restart marker": without_restart(RESTARTS),
    "a grey one": before_marker(saved(NOISE[..., 0], "JPEG"), SOS, b"\0\0"),
    "a progressive one": before_marker(saved(NOISE, "JPEG", progressive=True), SOS, b"\0\0"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_viewers_read_is_read_with_the_same_pixels_and_counted(name):
    data, reader = DAMAGED[name], PictureReader()
    pixels = reader.read(data)
    assert np.array_equal(pixels, by_pillow(data))
    if "flipped" not in name or reader.notes.counts:  # a flipped bit can leave valid JPEG
        assert reader.notes.counts == {Note.DAMAGED: 1}
        assert reader.notes.news() == "1 damaged or unusual JPEG, read as other viewers do"
    assert reader.notes.news() == ""


def test_bytes_between_segments_change_no_pixel():
    whole = PictureReader().read(PLAIN)
    for name in ("four bytes before DQT", "a byte before DHT", "bytes before SOF", "bytes before SOS"):
        assert np.array_equal(PictureReader().read(DAMAGED[name]), whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True, "quality": 40}],
)
def test_whole_files_have_the_pixels_of_pillow_and_nothing_is_told(tmp_path, mode, options):
    data, reader = saved(Image.fromarray(NOISE).convert(mode), "JPEG", **options), PictureReader()
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(reader.read(data), by_pillow(data))
    assert np.array_equal(reader.read(tmp_path / "a.jpg"), by_pillow(data))
    assert not reader.notes.counts


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_files_that_are_cut_short_are_refused_unless_settings_say_otherwise(mode, kept):
    whole = saved(Image.fromarray(NOISE).convert(mode), "JPEG", quality=95, subsampling=0)
    scan = whole.index(bytes([0xFF, SOS]))
    cut = whole[: scan + round((len(whole) - scan) * kept)]
    with pytest.raises(DataError, match=r"^image in memory: cannot be decoded \(.*truncated.*pictures\.truncated"):
        PictureReader().read(cut)
    reader = PictureReader(PictureSettings(truncated=True))
    pixels = reader.read(cut)
    assert reader.notes.counts == {Note.INCOMPLETE: 1}
    there = PictureReader().read(whole)
    assert pixels.shape == there.shape
    assert np.array_equal(pixels[:8], there[:8])  # one of five rows of blocks
    assert not np.array_equal(pixels, there)
    assert np.array_equal(reader.read(whole), there)


def test_a_file_without_anything_to_show_is_refused_whatever_settings_say():
    for data in (PLAIN[:200], b"\xff\xd8\xff\xe0", b"\xff\xd8\xff" + bytes(2000), b"\xff\xd8"):
        for truncated in (False, True):
            with pytest.raises(DataError, match=r"^image in memory: "):
                PictureReader(PictureSettings(truncated=truncated)).read(data)


def test_a_picture_inside_metadata_is_not_taken_for_the_picture():
    thumbnail = saved(np.zeros((8, 8, 3), np.uint8), "JPEG")
    data = with_segment(with_segment(PLAIN, 0xE1, b"Exif\0\0" + thumbnail), 0xE2, b"MPF\0" + thumbnail)
    assert np.array_equal(PictureReader().read(data), by_pillow(PLAIN))


def test_of_several_pictures_in_a_file_the_first_is_read():
    assert np.array_equal(PictureReader().read(PLAIN + saved(SMOOTH[:8, :8], "JPEG")), by_pillow(PLAIN))
    out = saved(Image.fromarray(NOISE), "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH)], quality=90)
    assert np.array_equal(PictureReader().read(out), by_pillow(PLAIN))


@pytest.mark.parametrize("marker", [0xC1, 0xC3, 0xC9, 0xF7])
def test_kinds_that_nothing_here_decodes_are_refused_in_one_line(marker):
    """Extended, lossless, arithmetic and JPEG-LS: with 12 bits, neither decoder reads them."""
    at = PLAIN.index(bytes([0xFF, SOF]))
    data = PLAIN[: at + 1] + bytes([marker]) + PLAIN[at + 2 : at + 4] + b"\x0c" + PLAIN[at + 5 :]
    with pytest.raises(DataError, match=r"^image in memory: cannot be decoded \([^\n]*\)$"):
        PictureReader().read(data)
