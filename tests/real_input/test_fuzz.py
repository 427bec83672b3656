"""Any bytes give a picture or an error of one line, in little time and memory."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import PictureReader
from real_input.dicom_files import LOSSLESS, SECRET, dataset, written
from real_input.files import NOISE, exif, saved, tiff, with_segment
from real_input.test_formats import LOSSLESS as WHOLE
from real_input.test_formats import LOSSY, SEVERAL, several

GREYS = np.arange(1024, dtype=np.uint16).reshape(32, 32)
SEEDS = {
    "JPEG": [LOSSY["JPEG"], saved(NOISE, "JPEG", progressive=True), saved(NOISE[..., 0], "JPEG"),
             with_segment(LOSSY["JPEG"], 0xE1, exif((0x0112, 3, 1, b"\6\0")))],
    "PNG": [WHOLE["PNG"], several("PNG"), saved(GREYS, "PNG")],
    "TIFF": [WHOLE["TIFF"], WHOLE["TIFF, LZW"], several("TIFF"), tiff(GREYS), tiff(GREYS, 12)],
    "others": [*(several(form) for form in SEVERAL), WHOLE["JPEG 2000"], WHOLE["BMP"], WHOLE["PNM"], LOSSY["GIF"]],
    "DICOM": [written(dataset(GREYS, stored=12, WindowCenter=500, WindowWidth=900)), written(dataset(NOISE, "RGB")),
              *(written(dataset(GREYS, stored=12), syntax) for syntax in LOSSLESS)],
}  # fmt: skip
#: A change of a file: kind, place (up to 500: a byte; above: a thousandth of the file), and bytes or length.
CHANGE = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 1000), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("put"), st.integers(0, 1000), st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), st.integers(0, 1000), st.integers(1, 40)),
    st.tuples(st.just("set"), st.integers(0, 1000), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])),
)
LIMITS = [
    PictureSettings(max_pixels=100_000),
    PictureSettings(max_pixels=100_000, truncated=True, grey="percentiles", frame="middle"),
]
#: Seconds of processor time for one file.
SECONDS = 5.0


def changed(data: bytes, changes) -> bytes:
    for kind, where, what in changes:
        at = len(data) * where // 1000 if where > 500 else min(where, len(data))
        if kind == "cut":
            data = data[:at] + data[at + what :]
        else:
            data = data[:at] + what + data[at + (len(what) if kind == "set" else 0) :]
    return data


def seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("form", SEEDS)
@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_give_a_picture_or_one_line(form, data):
    number = data.draw(st.integers(0, len(SEEDS[form]) - 1))
    file = changed(SEEDS[form][number], data.draw(st.lists(CHANGE, min_size=1, max_size=4)))
    for limits in LIMITS:
        before = seconds()
        try:
            pixels = PictureReader(limits).read(file)
        except DataError as error:
            assert "\n" not in str(error) and str(error).startswith("image in memory: ")
            assert SECRET not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert 0 < pixels.shape[0] * pixels.shape[1] <= limits.max_pixels
        assert seconds() - before < SECONDS


@settings(max_examples=200)
@given(
    st.binary(max_size=300), st.sampled_from([b"", *(seeds[0][:16] for seeds in SEEDS.values()), bytes(128) + b"DICM"])
)
def test_bytes_that_are_no_picture_give_one_line(junk, beginning):
    with pytest.raises(DataError, match=r"^image in memory: [^\n]+$"):
        PictureReader(LIMITS[0]).read(beginning + junk)


PROGRAM = """
import random, resource, sys
from pathlib import Path
from feddat.example import DataError
from feddat.picture_settings import PictureSettings
from feddat.pictures import PictureReader

chance, seeds = random.Random(0), [Path(name).read_bytes() for name in sys.argv[1:]]
reader = PictureReader(PictureSettings(max_pixels=100_000))
for data in seeds:  # loads what reading takes
    reader.read(data)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30,) * 2)
for _ in range(600):
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 2, 4))):
        data[chance.randrange(min(len(data), 400))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
    try:
        reader.read(bytes(data))
    except DataError as error:
        assert "not enough memory" not in str(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_sizes_that_headers_make_up_take_no_memory(tmp_path):
    """Run in a separate process, so that memory taken by earlier tests does not hide the peak."""
    names = []
    for number, data in enumerate(seeds for form in SEEDS.values() for seeds in form):
        (tmp_path / str(number)).write_bytes(data)
        names.append(str(tmp_path / str(number)))
    run = [sys.executable, "-c", PROGRAM, *names]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 200  # MiB; 100,000 pixels are 0.3


def test_what_is_damaged_here_can_be_read_before():
    for seeds in SEEDS.values():
        for data in seeds:
            assert PictureReader(LIMITS[0]).read(data).any()
