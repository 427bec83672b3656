"""DICOM as viewers show it, in every transfer syntax that the extra decodes."""

import sys

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from real_input.dicom_files import LOSSLESS, NATIVE, dataset, of_frames, written
from real_input.files import NOISE, SMOOTH, saved

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
RAMP_SHOWN = np.floor(RAMP * (255 / 4095) + 0.5).astype(np.uint8)


def read(data: bytes, **settings) -> np.ndarray:
    return PictureReader(PictureSettings(**settings)).read(data)


def greys(made: Dataset, **settings) -> list[int]:
    """Return the levels of the first row of a picture."""
    pixels = read(written(made), **settings)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def row(*values: int, kind: type = np.uint16) -> np.ndarray:
    return np.array([values], kind)


def lut(first: int, entries: list[int], bits: int, kind: str = "US") -> Dataset:
    """Return an item with a lookup table of numbers (US), of words (OW), or of bytes in words (OB)."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    if kind == "US":
        item.add_new("LUTData", "US", entries)
    else:
        item.add_new("LUTData", "OW", np.array(entries, "<u2" if kind == "OW" else "u1").tobytes())
    return item


def frame_groups(**elements) -> Dataset:
    """Return an item of functional groups with its own rescale and window."""
    values, window, group = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = elements["slope"], elements["intercept"]
    window.WindowCenter, window.WindowWidth = elements["center"], elements["width"]
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [values], [window]
    return group


CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
#: Name -> picture of one row, and the levels that a viewer shows. A window with center 40 and width 400 goes from -160
#: to 239 (PS3.3 C.11.2.1.2.1).
SHOWN = {
    "a window over all 8 bits": (
        dataset(row(0, 1, 128, 255, kind=np.uint8), WindowCenter=128, WindowWidth=256), [0, 1, 128, 255]),
    "CT": (dataset(row(0, 864, 1064, 1263, 4095), stored=12, **CT), [0, 0, 128, 255, 255]),
    "CT of signed values": (
        dataset(row(-2000, -160, 40, 239, kind=np.int16), **(CT | {"RescaleIntercept": 0})), [0, 0, 128, 255]),
    "the first of several windows": (
        dataset(row(864, 1263), stored=12, **(CT | {"WindowCenter": [40, 500], "WindowWidth": [400, 9]})), [0, 255]),
    "inverted": (dataset(row(864, 1064, 1263), "MONOCHROME1", stored=12, **CT), [255, 127, 0]),
    "an exact window": (
        dataset(row(0, 10, 15, 20, 99), WindowCenter=15, WindowWidth=10, VOILUTFunction="LINEAR_EXACT"),
        [0, 0, 128, 255, 255]),
    "a sigmoid": (
        dataset(row(0, 100, 200), WindowCenter=100, WindowWidth=200, VOILUTFunction="SIGMOID"), [30, 128, 225]),
    "a window of one value": (dataset(row(99, 100, 101), WindowCenter=100, WindowWidth=1), [0, 255, 255]),
    "a window of less than one value": (
        dataset(row(1, 2, 3), RescaleSlope=0.1, RescaleIntercept=0, WindowCenter=0.2, WindowWidth=0.2), [0, 128, 255]),
    "a falling rescale": (
        dataset(row(0, 255, kind=np.uint8), RescaleSlope=-1, RescaleIntercept=255, WindowCenter=128, WindowWidth=256),
        [255, 0]),
    "no window, 12 bits": (dataset(row(0, 2047, 4095), stored=12), [0, 127, 255]),
    "no window, 12 bits, inverted": (dataset(row(0, 2047, 4095), "MONOCHROME1", stored=12), [255, 128, 0]),
    "no window, signed 12 bits": (dataset(row(-2048, 0, 2047, kind=np.int16), stored=12), [0, 128, 255]),
    "no window, 32 bits": (dataset(row(0, 2**31, 2**32 - 1, kind=np.uint32)), [0, 128, 255]),
    "no window, a falling rescale": (
        dataset(row(0, 4095), stored=12, RescaleSlope=-2, RescaleIntercept=7), [255, 0]),
    "a window that is none": (dataset(row(0, 4095), stored=12, WindowCenter=5, WindowWidth=0), [0, 255]),
    "a table": (
        dataset(row(0, 10, 11, 12, 99), stored=12, VOILUTSequence=[lut(10, [0, 100, 255], 8)]), [0, 0, 100, 255, 255]),
    "a table before a window": (
        dataset(row(10, 12), VOILUTSequence=[lut(10, [4095, 0, 0], 12)], WindowCenter=11, WindowWidth=3), [255, 0]),
    "a table of words": (
        dataset(row(9, 10, 11), VOILUTSequence=[lut(10, [0, 65535], 16, "OW")]), [0, 0, 255]),
    "a table of bytes": (
        dataset(row(9, 11, 12, 13), VOILUTSequence=[lut(10, [0, 100, 200, 255], 8, "OB")]), [0, 100, 200, 255]),
    "a table of a machine's values": (
        dataset(row(0, 1, 2), stored=2, ModalityLUTSequence=[lut(0, [0, 30000, 65535, 0], 16)]), [0, 117, 255]),
    "of all frames": (
        dataset(row(0, 864, 1263), stored=12, WindowCenter=9, WindowWidth=9, SharedFunctionalGroupsSequence=[
            frame_groups(slope=1, intercept=-1024, center=40, width=400)]), [0, 0, 255]),
    "of the frame": (
        dataset(row(0, 864, 1263), stored=12, PerFrameFunctionalGroupsSequence=[
            frame_groups(slope=1, intercept=-1024, center=40, width=400)], SharedFunctionalGroupsSequence=[
            frame_groups(slope=5, intercept=5, center=5, width=5)]), [0, 0, 255]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_greys_are_rescaled_windowed_and_inverted_as_the_file_says(name):
    made, expected = SHOWN[name]
    assert greys(made) == expected


def test_a_window_is_what_pydicom_makes_of_it():
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        made = dataset(RAMP, stored=12, **(CT | {"VOILUTFunction": function}))
        ours = read(written(made))[..., 0]
        theirs = apply_windowing(RAMP - 1024.0, made)
        theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min()) * 255
        assert np.abs(ours - theirs).max() <= 0.51


def test_what_was_done_is_told():
    for made, note in ((dataset(RAMP, stored=12, **CT), Note.WINDOW), (dataset(RAMP, stored=12), Note.NO_WINDOW)):
        reader = PictureReader()
        reader.read(written(made))
        assert reader.notes.counts == {note: 1}
    reader = PictureReader()
    reader.read(written(dataset(RAMP % 16, stored=12)))
    assert reader.notes.counts == {Note.NO_WINDOW: 1, Note.FLAT: 1}


def test_percentiles_take_the_place_of_a_window_and_leave_padding_out():
    values = np.full((20, 20), 1000, np.int16)
    values[:, 10:] = 1100
    values[:5] = -2000  # what a scanner fills corners with
    for padding, spread in ((None, False), (-2000, True)):
        made = dataset(values, WindowCenter=0, WindowWidth=9, RescaleSlope=2, RescaleIntercept=-5)
        if padding is not None:
            made.add_new("PixelPaddingValue", "SS", padding)
        pixels = read(written(made), grey="percentiles")
        assert pixels[0, 0, 0] == 0 and pixels[19, 19, 0] == 255
        assert (pixels[19, 0, 0] == 0) == spread
    made.PhotometricInterpretation = "MONOCHROME1"
    assert read(written(made), grey="percentiles")[19, :, 0].tolist() == [255] * 10 + [0] * 10


# Transfer syntaxes


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("kind", ["12 bits", "signed", "colour"])
def test_what_is_compressed_without_loss_has_every_pixel(syntax, kind):
    if kind == "colour":
        assert np.array_equal(read(written(dataset(NOISE, "RGB"), syntax)), NOISE)
        return
    values = (RAMP.astype(np.int16) - 2048) if kind == "signed" else RAMP
    pixels = read(written(dataset(values, stored=12), syntax))
    assert np.array_equal(pixels[..., 0], RAMP_SHOWN)


WITH_LOSS = {
    JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(RAMP, 95, bitspersample=12),
    JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(RAMP, 3),
    JPEG2000: lambda: imagecodecs.jpeg2k_encode(RAMP, 60, codecformat="J2K", bitspersample=12),
    HTJ2K: lambda: imagecodecs.htj2k_encode(RAMP, 0.001, reversible=False),
}


@pytest.mark.parametrize("syntax", WITH_LOSS, ids=lambda uid: uid.name)
def test_what_is_compressed_with_loss_has_nearly_every_pixel(syntax):
    frame = bytes(WITH_LOSS[syntax]())
    pixels = read(of_frames([frame], dataset(RAMP, stored=12), syntax))
    assert np.abs(pixels[..., 0].astype(int) - RAMP_SHOWN).max() <= 4


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("coded", ["YCBCR", "RGB"])
def test_colours_of_jpeg_extended_are_rgb(bits, coded):
    values = SMOOTH if bits == 8 else SMOOTH.astype(np.uint16) * 16
    frame = bytes(
        imagecodecs.jpeg8_encode(
            values, 95, bitspersample=bits, colorspace="RGB", outcolorspace=coded, subsampling="444"
        )
    )
    made = dataset(values, "RGB" if coded == "RGB" else "YBR_FULL", stored=bits)
    assert np.abs(read(of_frames([frame], made, JPEGExtended12Bit)).astype(int) - SMOOTH).mean() < 2


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
def test_jpeg_inside_is_the_picture_that_it_is_outside(photometric):
    frame = saved(SMOOTH, "JPEG", quality=95)
    data = of_frames([frame], dataset(SMOOTH, photometric), JPEGBaseline8Bit)
    assert np.abs(read(data).astype(int) - SMOOTH).mean() < 3
    grey = saved(SMOOTH[..., 0], "JPEG", quality=95)
    data = of_frames([grey], dataset(SMOOTH[..., 0]), JPEGBaseline8Bit)
    assert np.abs(read(data)[..., 0].astype(int) - SMOOTH[..., 0]).mean() < 3


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.name)
def test_files_from_before_there_was_a_preamble_are_read(syntax):
    made = dataset(RAMP, stored=12)
    made.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(read(written(made, bare=True)), read(written(dataset(RAMP, stored=12))))


# Colours


def test_colours_of_every_kind_are_rgb():
    from pydicom.pixels import convert_color_space

    planar = dataset(NOISE, "RGB", PlanarConfiguration=1)
    planar.PixelData = NOISE.transpose(2, 0, 1).tobytes()
    assert np.array_equal(read(written(planar)), NOISE)
    ybr = convert_color_space(SMOOTH, "RGB", "YBR_FULL")
    assert np.abs(read(written(dataset(ybr, "YBR_FULL"))).astype(int) - SMOOTH).max() <= 2
    assert np.abs(read(written(dataset(ybr, "YBR_FULL"), RLELossless)).astype(int) - SMOOTH).max() <= 2
    pairs = ybr.reshape(40, 28, 2, 3)
    packed = np.stack([pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], -1)
    made = dataset(SMOOTH, "YBR_FULL_422")
    made.PixelData = packed.astype(np.uint8).tobytes()
    assert np.abs(read(written(made)).astype(int) - SMOOTH).max() <= 8
    deep = dataset(NOISE.astype(np.uint16) * 16, "RGB", stored=12)
    assert np.abs(read(written(deep)).astype(int) - NOISE).max() <= 1


@pytest.mark.parametrize("entries", ["8 bits", "16 bits", "8 bits in 16"])
def test_a_palette_is_applied(entries):
    colours = {"Red": [0, 255, 9], "Green": [0, 128, 200], "Blue": [0, 1, 77]}
    made = dataset(row(0, 1, 2, 2, kind=np.uint8), "PALETTE COLOR")
    for name, levels in colours.items():
        kind, factor = (np.uint8, 1) if entries == "8 bits" else (np.uint16, 257 if entries == "16 bits" else 1)
        data = (np.array(levels, kind) * kind(factor)).tobytes()
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 8 if entries == "8 bits" else 16])
        setattr(made, f"{name}PaletteColorLookupTableData", data + b"\0" * (len(data) % 2))
    if entries == "8 bits":
        for name in colours:  # the data has an even length, so the count is even
            getattr(made, f"{name}PaletteColorLookupTableDescriptor")[0] = 4
    assert read(written(made))[0].tolist() == [[0, 0, 0], [255, 128, 1], [9, 200, 77], [9, 200, 77]]


# Frames

FRAMES = np.stack([np.full((40, 60), level, np.uint8) for level in (10, 20, 30)])


@pytest.mark.parametrize("syntax", [None, RLELossless, DeflatedExplicitVRLittleEndian, JPEG2000Lossless])
@pytest.mark.parametrize(("frame", "level"), [(1, 10), ("middle", 20), (3, 30)])
def test_of_several_frames_the_one_that_settings_say_is_read(syntax, frame, level):
    made = dataset(FRAMES, NumberOfFrames=3)
    reader = PictureReader(PictureSettings(frame=frame))
    assert (reader.read(written(made, syntax)) == level).all()
    assert reader.notes.counts[Note.FRAMES] == 1
    with pytest.raises(DataError, match=r"the file holds 3 frames, but pictures\.frame is 4$"):
        read(written(dataset(FRAMES, NumberOfFrames=3)), frame=4)


def test_every_frame_has_its_own_window():
    groups = [frame_groups(slope=1, intercept=0, center=level, width=2) for level in (0, 22, 0)]
    made = dataset(FRAMES, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
    assert (read(written(made), frame=2) == 0).all() and (read(written(made), frame=3) == 255).all()


# What is refused


def test_without_the_extra_it_is_named(monkeypatch, tmp_path):
    path = tmp_path / "scan"
    path.write_bytes(written(dataset(RAMP)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"scan: DICOM needs pydicom: pip install 'feddat\[dicom\]'$"):
        PictureReader().read(path)


def test_without_a_decoder_the_extra_is_named(monkeypatch):
    data = written(dataset(RAMP, stored=12), JPEG2000Lossless)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.available_plugins", ())
    wanted = r"compressed as JPEG 2000 .*Lossless Only\) needs a decoder: pip install 'feddat\[dicom\]'$"
    with pytest.raises(DataError, match=wanted):
        read(data)
    assert read(written(dataset(RAMP, stored=12))).shape == (64, 64, 3)


def without(made: Dataset, *names: str) -> Dataset:
    for name in names:
        delattr(made, name)
    return made


def coded_for(syntax: str, **elements) -> bytes:
    return of_frames([saved(SMOOTH[..., 0], "JPEG")], dataset(SMOOTH[..., 0], **elements), syntax)


REFUSED = {
    "no picture": (written(without(dataset(RAMP), "PixelData", "Rows", "Columns")), "holds no picture"),
    "no pixels": (written(without(dataset(RAMP), "PixelData")), "its pixels cannot be read"),
    "a film": (coded_for(MPEG4HP41), r"compressed as MPEG-4 .* is not read; decompress it first"),
    "an unknown transfer syntax": (coded_for("1.2.3.4.5"), "an unknown transfer syntax is not read"),
    "colours of old": (written(dataset(NOISE, "HSV")), "photometric interpretation other than MONOCHROME1"),
    "bits that are not the lowest": (written(dataset(RAMP, HighBit=15, BitsStored=12)), "not the lowest"),
    "too many pixels": (written(dataset(RAMP, Rows=60000, Columns=60000)), "60000 x 60000 pixels are more than"),
    "less than it says": (written(dataset(RAMP, Rows=65)), "its pixels cannot be read"),
    "not deflated": (
        written(dataset(RAMP)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), "not deflated|header"),
    "cut short": (written(dataset(RAMP))[:-1000], "its pixels cannot be read"),
    "nothing behind the preamble": (bytes(128) + b"DICM", "holds no picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_in_one_line(name):
    data, wanted = REFUSED[name]
    with pytest.raises(DataError, match=rf"^image in memory: [^\n]*({wanted})[^\n]*$"):
        read(data)


def test_a_frame_that_is_larger_than_the_header_says_is_refused_before_it_is_decoded():
    large = saved(np.zeros((300, 400), np.uint8), "JPEG")
    j2k = saved(np.zeros((300, 400), np.uint8), "JPEG2000", no_jp2=True)
    for frame, syntax in ((large, JPEGBaseline8Bit), (j2k, JPEG2000)):
        data = of_frames([frame], dataset(SMOOTH[..., 0]), syntax)
        with pytest.raises(DataError, match=r"400 x 300 pixels are more than pictures\.max_pixels"):
            read(data, max_pixels=40 * 56)


def test_a_file_that_inflates_without_end_is_refused():
    made = dataset(np.zeros((10, 10), np.uint8), WindowCenter=1, WindowWidth=2)
    made.add_new(0x00091001, "OB", bytes(60 << 20))
    data = written(made, DeflatedExplicitVRLittleEndian)
    assert len(data) < 1 << 20
    with pytest.raises(DataError, match=r"more than \d+ bytes when inflated"):
        read(data, max_pixels=100)


def test_pixels_that_are_cut_off_are_black_where_settings_say_so():
    for syntax in NATIVE[:2]:
        data = written(dataset(RAMP, stored=12), syntax)[:-1000]
        reader = PictureReader(PictureSettings(truncated=True))
        pixels = reader.read(data)
        assert reader.notes.counts[Note.INCOMPLETE] == 1
        assert np.array_equal(pixels[:50, :, 0], RAMP_SHOWN[:50]) and not pixels[-5:].any()
