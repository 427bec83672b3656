"""A client that sends invalid arrays: each costs only that reply, and no header makes the server allocate memory."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from attackers import EVE, is_mean_of_the_honest, refusals, run, with_array
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.app.arrays import ArrayError, read_array

KEY = "up.bias"


def saved(value, **options):
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


def header(text, version=b"\x01\x00", length=None):
    text = text.encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY" + version + size.to_bytes(2 if version < b"\x02" else 4, "little") + text


def described(shape, descr="<f4", order="False", values=b""):
    return header(f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n") + values


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(4, np.float32))
    return file.getvalue()


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * 200_000_000)
    return file.getvalue()


FOUR = np.arange(4, dtype=np.float32).tobytes()
HOSTILE = {
    "nothing": b"",
    "text": b"junk",
    "npz": npz(),
    "zip bomb": bomb(),
    "pickle": b"\x80\x04K\x01.",
    "pickled objects": saved(np.array([{}], object), allow_pickle=True),
    "magic alone": b"\x93NUMPY",
    "no length": b"\x93NUMPY\x01\x00",
    "torn header": saved(np.zeros(4, np.float32))[:40],
    "torn values": saved(np.zeros(4, np.float32))[:-1],
    "more values": saved(np.zeros(4, np.float32)) + b"\0",
    "format 2": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n", b"\x02\x00") + FOUR,
    "format 9": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n", b"\x09\x00") + FOUR,
    "indented": header("  {'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n") + FOUR,
    "badly indented": header("if 1:\n  1\n 2\n") + FOUR,
    "unclosed": header("{'descr': ('<f4', 'fortran_order': False, 'shape': (4,), }\n") + FOUR,
    "nested": header("(" * 900 + ")" * 100) + FOUR,
    "nested minus": header("-" * 1000 + "1") + FOUR,
    "long header": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 60000 + "\n") + FOUR,
    "length beyond the end": header("{}", length=65000),
    "null bytes": header("\0" * 64) + FOUR,
    "code": header("__import__('os').abort()\n") + FOUR,
    "huge shape": described((10**12,)),
    "shape beyond any": described((10**17, 10**17, 10**17)),
    "shape of zeros": described((0, 10**18)),
    "negative shape": described((-1,), values=FOUR),
    "true shape": described("(True, 4)", values=FOUR),
    "shape of many": described((1,) * 33 + (4,), values=FOUR),
    "float64": saved(np.zeros(4)),
    "float16": saved(np.zeros(4, np.float16)),
    "int32": saved(np.zeros(4, np.int32)),
    "other byte order": saved(np.zeros(4, ">f4")),
    "complex": saved(np.zeros(2, np.complex64)),
    "text numbers": saved(np.array(["abcd"])),
    "dates": saved(np.zeros(2, "M8[s]")),
    "structures": saved(np.zeros(2, [("a", "<f4"), ("b", "<f4")])),
    "another shape": saved(np.zeros((2, 2), np.float32)),
    "scalar": saved(np.float32(1)),
    "numbers of 99 bytes": described((4,), "<f99", values=FOUR),
    "not a number": saved(np.array([0, np.nan, 0, 0], np.float32)),
    "infinite": saved(np.array([0, np.inf, 0, 0], np.float32)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_cost_their_own_reply(name, caplog):
    found = run({"train": with_array(KEY, Array("float32", (4,), "numpy.ndarray", HOSTILE[name]))})
    [(client, kind, reason)] = refusals(found)
    assert (client, kind) == (EVE, "train")
    assert reason.startswith(f"array {KEY} ")
    assert len(reason) < 320
    assert is_mean_of_the_honest(found)
    assert found.state.refused == 1
    assert [r for r in caplog.messages if "eve refused" in r] == [f"round 1, train: client eve refused: {reason}"]


def test_no_bomb_takes_memory():
    tracemalloc.start()  # knows NumPy's arrays, too
    try:
        for name in ("zip bomb", "huge shape", "shape beyond any", "shape of zeros"):
            run({"train": with_array(KEY, Array("float32", (4,), "numpy.ndarray", HOSTILE[name]))})
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (4,), "torch.tensor", saved(np.zeros(4, np.float32))),
        Array("float32", (4,), "pickle\x1b[2J", saved(np.zeros(4, np.float32))),
        Array("float32", (10**9,), "numpy.ndarray", b""),
    ],
)
def test_other_ways_to_serialise_are_refused(array):
    found = run({"train": with_array(KEY, array)})
    assert [reason.split(":")[0] for *_, reason in refusals(found)] == [f"array {KEY} cannot be read"]
    assert "\x1b" not in str(found.events)


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_no_bytes_bring_about_anything_else(data):
    for begin in (b"", b"\x93NUMPY\x01\x00", saved(np.zeros(4, np.float32))[:10]):
        array = Array("float32", (4,), "numpy.ndarray", begin + data)
        with pytest.raises(ArrayError):
            read_array(array, np.dtype(np.float32), (4,))


@given(
    st.sampled_from(["<f4", "<f2", "<u2", "|i1", "<f8", "<i8"]),
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
    st.booleans(),
)
def test_plain_arrays_come_through_as_numpy_wrote_them(dtype, shape, in_columns):
    value = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape, order="F" if in_columns else "C")
    array = Array(str(value.dtype), shape, "numpy.ndarray", saved(value))
    found = read_array(array, np.dtype(dtype), shape)
    assert (found.dtype, found.shape) == (value.dtype, shape)
    assert np.array_equal(found, value)
    assert np.array_equal(found, Array(value).numpy())
