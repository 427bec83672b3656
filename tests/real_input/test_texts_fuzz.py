"""Damaged files: readers read any bytes or raise their own error of one line, in little time and memory."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from feddat.config import ConfigError, load_config
from feddat.data.readers import large_json
from feddat.data.readers.image_folder import ImageFolder
from feddat.data.readers.json_depth import MOST_DEPTH, Shallow
from feddat.data.readers.own import read_records
from feddat.data.readers.records import COLUMNS, to_examples
from feddat.example import DataError
from feddat.site import read_site

FEW = settings(max_examples=80, suppress_health_check=list(HealthCheck))

RECORDS: list[dict[str, Any]] = [
    {
        "id": 1,
        "image": "a.png",
        "question": "what color ?",
        "answers": "café",
        "label": 0,
        "choices": ["a", "b", "c", "d"],
    },
    {
        "id": "2",
        "image": "a.png",
        "image2": "a.png",
        "question": "how many, in all ?",
        "answers": ["2", None],
        "label": "true",
    },
    {"id": 3, "image": "a.png", "question": "why?", "answers": {"red": 1.0, "blue": 0.3}, "label": -1, "choices": None},
]
TABLE = (
    "id,image,image2,question,answers,label,choices\n"
    "1,a.png,a.png,what color ?,café,0,a|b|c|d\n"
    "2,a.png,,\"how many, in all ?\",\"['2', 'two']\",true,\n"
)
YAML = """\
name: run
rounds: 3
base: &base {test: b.jsonl, images: pictures}
clients:
  north: {<<: *base, train: a.jsonl}
  "no": {train: a.jsonl, test: b.jsonl, top_answers: 5}
train: {lr: 1.0e-3, betas: [0.9, 0.98]}
"""
SITE = "client: north\nserver: h:9092\ndata: {train: a.jsonl, test: b.jsonl}\nstate: state\nshare_metrics: counts\n"
#: Bytes with a special meaning in some format.
TOKENS = [
    *(sign.encode() for sign in "\"',;\t\n\r|[]{}:#\\%@`ü\u2028\ufeff"),
    *(
        word.encode()
        for word in ("- ", "&a ", "*a", "<<: ", "!!int ", "? ", "---\n", "sep=;\n", "image", "Image", "\\ud83d")
    ),
    *(value.encode() for value in ("null", "NaN", "1e999", "-1", "true", "no", "2024-01-01", "9" * 5000)),
    *(start * 300 for start in (b"[", b'{"a":')),
    *(b"\x00", b"\xff", b"\xff\xfe", b"\x80", b"\xef\xbb\xbf", b"\x1a"),
]


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for this content with pieces put in, taken out or doubled, and maybe in another encoding."""
    place = st.integers(0, len(content))
    change = st.tuples(
        st.sampled_from(["put", "take", "double"]), place, place, st.sampled_from(TOKENS) | st.binary(max_size=4)
    )

    def apply(changes: list[tuple[str, int, int, bytes]], encoding: str) -> bytes:
        found = content
        for kind, one, other, token in changes:
            first, last = sorted((one, other))
            middle = {"put": token + found[first:last], "take": b"", "double": found[first:last] * 2}[kind]
            found = found[:first] + middle + found[last:]
        return found if encoding == "utf-8" else found.decode("utf-8", "replace").encode(encoding)

    encodings = st.sampled_from(["utf-8"] * 4 + ["utf-16", "utf-16-le", "utf-8-sig"])
    return st.builds(apply, st.lists(change, min_size=1, max_size=4), encodings)


FILES = {
    "x.jsonl": b"\n".join(json.dumps(record, ensure_ascii=False).encode() for record in RECORDS),
    "x.json": json.dumps(RECORDS, indent=1).encode(),
    "one.json": json.dumps({"data": RECORDS, "version": 1}).encode(),
    "x.csv": TABLE.encode(),
    "x.tsv": TABLE.replace(",", "\t").encode("utf-8-sig"),
    "semicolons.csv": TABLE.replace(",", ";").encode("cp1252"),
}


def read_all(path: Path) -> int:
    """Read a file for every task and return the number of examples. Only our own error is caught."""
    count = 0
    for task in COLUMNS:
        try:
            for example in to_examples(read_records(path), task, ImageFolder(path.parent), True, Counter()):
                count += 1
                # Every text can be encoded.
                json.dumps(
                    [example.text, *example.answers, *example.meta.items(), *example.choices, example.id]
                ).encode()
                "".join([example.text, *example.answers, example.id]).encode()
        except DataError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            assert len(str(error)) < 2000
    return count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"image")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_good_before_they_are_damaged(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name])
    assert read_all(folder / name) >= 3


@pytest.mark.parametrize("name", FILES)
@FEW
@given(data=st.data())
def test_damaged_records_are_read_or_refused_in_one_line(folder: Path, name: str, data: st.DataObject) -> None:
    (folder / name).write_bytes(data.draw(damaged(FILES[name])))
    read_all(folder / name)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv"])
@FEW
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_one_line(folder: Path, suffix: str, content: bytes) -> None:
    (folder / f"x{suffix}").write_bytes(content)
    read_all(folder / f"x{suffix}")


@FEW
@given(content=damaged(json.dumps({"questions": RECORDS}).encode()))
def test_damaged_published_files_are_read_or_refused_in_one_line(folder: Path, content: bytes) -> None:
    path = folder / "x.json"
    path.write_bytes(content)
    for read in (lambda: large_json.elements(path, "questions"), lambda: large_json.entries(path, "id")):
        try:
            list(read())
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@FEW
@given(content=damaged(YAML.encode()) | damaged(SITE.encode()) | st.binary(max_size=60))
def test_damaged_settings_are_read_or_refused_in_one_line(folder: Path, content: bytes) -> None:
    path = folder / "x.yaml"
    path.write_bytes(content)
    for read in (load_config, read_site):
        try:
            read(path)
        except ConfigError as error:
            assert str(path) in str(error) and "\n" not in str(error)


# Bounds


def deep(count: int) -> bytes:
    return b"[" * count + b"]" * count


BOMBS = {
    "a deep array": ("x.json", deep(200_000)),
    "a deep array in a record": ("x.json", b'[{"image": "a.png", "question": "q", "answers": ' + deep(50_000) + b"}]"),
    "a deep line": ("x.jsonl", b'{"answers": ' + deep(100_000) + b"}"),
    "deep objects": ("x.json", b'{"a":' * 100_000),
    "a deep list in a cell": ("x.csv", b'image,question,answers\na.png,q,"' + deep(4000) + b'"\n'),
    "a long list in a cell": ("x.csv", b'image,question,answers\na.png,q,"[' + b"-" * 9000 + b'1]"\n'),
    "an open quotation mark": ("x.csv", b'image,question,answers\na.png,"' + b"what,red\n" * 200_000),
    "a large number": ("x.jsonl", b'{"image": "a.png", "question": "q", "answers": ' + b"9" * 200_000 + b"}"),
    "a large number in an array": (
        "x.json",
        b'[{"image": "a.png", "question": "q", "answers": ' + b"9" * 200_000 + b"}]",
    ),
    "a large exponent": ("x.json", b'[{"image": "a.png", "question": "q", "answers": 1e999999999}]'),
    "many columns": ("x.csv", b",".join(b"c%d" % n for n in range(20_000)) + b"\n" + b"," * 19_999 + b"\n"),
    "many zeros": ("x.csv", bytes(2_000_000)),
    "an empty list of many": ("x.json", b"[" + b"{}," * 100_000 + b"{}]"),
}


@pytest.mark.parametrize(("name", "content"), BOMBS.values(), ids=BOMBS)
def test_small_files_take_little_memory_and_time(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    tracemalloc.start()
    started = time.process_time()
    try:
        read_all(folder / name)
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 10


@pytest.mark.parametrize("key", ["questions", ""])
def test_published_files_take_little_memory(folder: Path, key: str) -> None:
    (folder / "x.json").write_bytes(b'{"questions": [' + deep(200_000) + b"]}")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"x\.json, at its beginning: .*nested more than {MOST_DEPTH} deep"):
            list(large_json.elements(folder / "x.json", key) if key else large_json.entries(folder / "x.json", "id"))
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


#: Values with many brackets, quotation marks and backslashes in their texts and keys.
VALUES = st.recursive(
    st.text('[]{}"\\a', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
)


@FEW
@given(value=VALUES, size=st.integers(1, 9), open_before=st.integers(MOST_DEPTH - 4, MOST_DEPTH))
def test_what_is_refused_is_what_is_nested_deeper(value: Any, size: int, open_before: int) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    content = b"[" * open_before + json.dumps(value).encode() + b"]" * open_before
    file, read = Shallow(io.BytesIO(content)), b""
    try:
        while piece := file.read(size):
            read += piece
    except ValueError:
        assert open_before + depth(value) > MOST_DEPTH
    else:
        assert open_before + depth(value) <= MOST_DEPTH
        assert read == content


@pytest.mark.parametrize(
    "content",
    [
        "a: " + "[" * 100_000,
        "- " * 30_000 + "a",
        "a: &a [" + "1," * 1000 + "]\n" + "\n".join(f"k{n}: [{'*a,' * 100}]" for n in range(11)),
        "a: &a {b: &b [*a, *b]}",
        "x" * 5_000_000,
        "k: " + "9" * 100_000,
        "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 9 if n else ''}], k{n}: 1}}\n" for n in range(9)),
    ],
    ids=["brackets", "dashes", "aliases", "itself", "large", "number", "merged"],
)
def test_small_settings_take_little_memory_and_time(folder: Path, content: str) -> None:
    path = folder / "x.yaml"
    path.write_text(content)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ConfigError):
            load_config(path)
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 20


def test_damaged_parquet_is_refused_in_one_line(folder: Path) -> None:
    table = pyarrow.table({
        "image": ["a.png"], "question": pyarrow.array([b"\xff"]).view(pyarrow.string()), "answers": ["red"]
    })  # fmt: skip
    parquet.write_table(table, folder / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file: "):
        list(read_records(folder / "x.parquet"))
    for note in (
        b"[]",
        b"{",
        b'{"info": {"features": [1]}}',
        b'{"info": {"features": {"question": {"names": 3}}}}',
        b"null",
    ):
        good = pyarrow.table({"image": ["a.png"], "question": ["q"], "answers": ["red"]})
        parquet.write_table(good.replace_schema_metadata({b"huggingface": note}), folder / "x.parquet")
        assert len(list(read_records(folder / "x.parquet"))) == 1
