"""Tables and JSON as spreadsheets, data frames and shells write them: what is read, and the errors about the rest."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from feddat.data.readers import text_files
from feddat.data.readers.own import read_records
from feddat.data.readers.records import to_example
from feddat.example import DataError

#: The two records that the good files of this module hold.
EXPECTED = [("what color ?", {"café": 1.0}), ("how many, in all ?", {"2": 1.0})]
ROWS = [["image", "question", "answers"], ["a.png", "what color ?", "café"], ["a.png", "how many, in all ?", "2"]]
RECORDS = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]


def table(separator: str, header: list[str] = ROWS[0], end: str = "\n") -> str:
    """Return the two records as a table; cells that contain the separator are in quotation marks."""

    def cell(text: str) -> str:
        return f'"{text}"' if separator in text else text

    return "".join(separator.join(map(cell, row)) + end for row in [header, *ROWS[1:]])


@pytest.fixture(autouse=True)
def _announced_anew() -> None:
    text_files.announce.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"image")
    return tmp_path


def questions(path: Path) -> list[tuple[str, dict[str, float]]]:
    examples = [to_example(record, "vqa", path.parent) for record in read_records(path)]
    assert all(example.images == (path.parent / "a.png",) for example in examples)
    return [(example.text, dict(example.answers)) for example in examples]


def said(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        questions(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


TABLES = {
    "commas": ("x.csv", table(",").encode(), None),
    "with its mark": ("x.csv", table(",").encode("utf-8-sig"), None),
    "Windows line ends": ("x.csv", table(",", end="\r\n").encode(), None),
    "old Macintosh line ends": ("x.csv", table(",", end="\r").encode(), None),
    "semicolons": ("x.csv", table(";").encode(), "its columns are separated by ';'"),
    "tabs in a .csv": ("x.csv", table("\t").encode(), "its columns are separated by a tab"),
    "a sep line": ("x.csv", ("sep=;\r\n" + table(";", end="\r\n")).encode("utf-8-sig"), None),
    "a sep line in quotes": ("x.csv", ('"sep=\t"\n' + table("\t")).encode(), None),
    "tsv": ("x.tsv", table("\t").encode(), None),
    "TSV in upper case": ("x.TSV", table("\t").encode(), None),
    "commas in a .tsv": ("x.tsv", table(",").encode(), "its columns are separated by ','"),
    "names in upper case": ("x.csv", table(",", ["Image", " QUESTION", "Answers "]).encode(), None),
    "names in quotes": ("x.csv", table(";", ['"image"', '"question"', '"answers"']).encode(), "separated by ';'"),
    "Latin-1, as Excel's CSV": ("x.csv", table(";", end="\r\n").encode("cp1252"), "in which line 2|by ';'"),
    "UTF-16, as Excel's Unicode text": ("x.csv", table("\t", end="\r\n").encode("utf-16"), "read as UTF-16|by a tab"),
    "UTF-16 without its mark": ("x.csv", table(",").encode("utf-16-le"), "read as UTF-16"),
    "UTF-16, the other way around": ("x.tsv", table("\t").encode("utf-16-be"), "read as UTF-16"),
    "UTF-32": ("x.csv", table(",").encode("utf-32"), "read as UTF-32"),
    "empty rows and columns": (
        "x.csv",
        b'image,question,answers,,\na.png,what color ?,caf\xc3\xa9,,\n,,,,\n\na.png,"how many, in all ?",2,,\n,,,,\n',
        None,
    ),
    "a data frame's index": (
        "x.csv",
        ',image,question,answers\n0,a.png,what color ?,café\n1,a.png,"how many, in all ?",2\n'.encode(),
        None,
    ),
    "an answer as a number": ("x.csv", table(",").replace(",2\n", ",2.0\n").encode(), None),
}


@pytest.mark.parametrize(("name", "content", "announced"), TABLES.values(), ids=TABLES)
def test_tables(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, announced: str | None
) -> None:
    (folder / name).write_bytes(content)
    expected = [EXPECTED[0], (EXPECTED[1][0], {"2.0": 1.0})] if b"2.0" in content else EXPECTED
    with caplog.at_level(logging.INFO, "feddat"):
        assert questions(folder / name) == questions(folder / name) == expected
    messages = [record.message for record in caplog.records]
    told = announced.split("|") if announced else []
    assert len(messages) == len(told)  # once, however often the file is read
    assert all(str(folder / name) in message and part in message for message, part in zip(messages, told, strict=True))


def test_a_guess_shows_by_a_word_that_it_decides(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "x.csv").write_bytes(table(",").replace("café", "Grüße").encode("latin-1"))
    questions(folder / "x.csv")
    assert caplog.records[0].levelname == "WARNING"
    assert "line 2 has 'Grüße'; if that is wrong, save it as UTF-8" in caplog.text


LISTS = {
    "bars": ("yes|no|yes", {"yes": 0.6, "no": 0.3}),
    "JSON": ('"[""yes"", ""no"", ""yes""]"', {"yes": 0.6, "no": 0.3}),
    "as Python prints it": ("\"['yes', 'no', 'yes']\"", {"yes": 0.6, "no": 0.3}),
    "VQA v2's own, as Python prints it": ("\"[{'answer': 'yes', 'answer_id': 1}, {'answer': ''}]\"", {"yes": 0.3}),
    "scores": ("\"{'yes': 1.0, 'no': 0.3}\"", {"yes": 1.0, "no": 0.3}),
    "a tuple": ("\"('yes', 'no', 'yes')\"", {"yes": 0.6, "no": 0.3}),
    "over two lines": ("\"['yes',\n 'no', 'yes']\"", {"yes": 0.6, "no": 0.3}),
    "numbers": ('"[1, 2, 1]"', {"1": 0.6, "2": 0.3}),
    "a text in brackets": ("[sic]", {"[sic]": 1.0}),
    "a text in parentheses": ("(none)", {"(none)": 1.0}),
    "a negative amount": ('"(1,000)"', {"(1,000)": 1.0}),
    "a place": ('"(2, 3)"', {"(2, 3)": 1.0}),
    "a range": ("[2-3]", {"[2-3]": 1.0}),
    "a call": ("array(5)", {"array(5)": 1.0}),
    "half a list": ("['yes'", {"['yes'": 1.0}),
}


@pytest.mark.parametrize(("cell", "answers"), LISTS.values(), ids=LISTS)
def test_several_answers_in_one_cell(folder: Path, cell: str, answers: dict[str, float]) -> None:
    (folder / "x.csv").write_text(f"image,question,answers\na.png,is it ?,{cell}\n")
    assert questions(folder / "x.csv") == [("is it ?", answers)]


BAD_TABLES = {
    "a name over two lines": (b'image,"que\nstion",answers\na.png,what,red\n', "(columns: image, que stion, answers)"),
    "an open quotation mark": (b'image,question,answers\na.png,"what,red\n' * 2, ", line 2: not CSV: "),
    "a mark inside a cell": (b'image,question,answers\na.png,"what "red" is",red\n', "inside a quoted cell twice"),
    "a comma in a cell": (
        b"image,question,answers\na.png,yes, or no ?,red\n",
        ", line 2: expected 3 cells (as the header), got 4; put a cell that contains ',' in quotation marks",
    ),
    "a short row": (
        b"image;question;answers\na.png;what\n",
        ", line 2: expected 3 cells (as the header), got 2; put a cell that contains",
    ),
    "one column twice": (b"Image,IMAGE,question,answers\n", ", line 1: a column occurs twice: Image, IMAGE"),
    "another sep line": (b"sep=/\nimage/question/answers\n", ", line 1: 'sep=/': expected one of ',', ';', a tab"),
    "another separator": (
        b"image:question:answers\na.png:what:red\n",
        ", line 1: looks like ':' separates its columns; expected one of ',', ';', a tab",
    ),
    "bars": (b'"Image"|Question|"Answers"\na.png|what|red\n', ", line 1: looks like '|' separates its columns"),
    "another name": (
        b"image,question,answer\na.png,what,red\n",
        ", line 2: column 'answers' is missing (columns: image, question, answer); did you mean 'answer'?",
    ),
    "no names": (b"a.png,what,red\nb.png,what,red\n", "column 'image' is missing (columns: a.png, what, red)"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x01\x00", ", line 3: not UTF-8 text: a zero byte"),
    "zeros": (bytes(5000), ", line 1: not UTF-8 text: a zero byte"),
    "half of UTF-16": (b"\xff\xfei\x00m\x00a", ", line 1 or later: not utf-16"),
    "no text": (
        b"image,question,answers\n\x81\x8d,\x01,x\n",
        ", line 2: not UTF-8 text: invalid start byte; save it as UTF-8",
    ),
}

PRINTED = {
    "NumPy's texts": "['yes' 'no']",
    "NumPy's texts over two lines": "\"['yes'\n 'no']\"",
    "NumPy's numbers": "[1 2 1]",
    "an array": "\"array(['yes', 'no'], dtype=object)\"",
    "with a missing text": "\"['yes', nan]\"",
    "a missing text": "[None 'yes']",
    "a missing number": "[1.5 nan]",
    "truth values": "[ True False]",
    "NumPy's mappings": "\"[{'answer': 'yes'}\n {'answer': 'no'}]\"",
    "NumPy's rows": "\"[['yes' 'no']\n ['no' 'no']]\"",
    "a set": "\"{'yes', 'no'}\"",
    "arrays in a mapping": "\"{'answer': array(['yes', 'no'], dtype=object)}\"",
}


@pytest.mark.parametrize("cell", PRINTED.values(), ids=PRINTED)
def test_lists_in_no_known_form_are_refused(folder: Path, cell: str) -> None:
    quoted = cell if cell.startswith('"') else f'"{cell}"'
    (folder / "x.csv").write_text(f"image,question,answers\na.png,is it ?,{quoted}\n")
    message = said(folder / "x.csv")
    assert message.startswith(", line 2: column 'answers': ")
    assert "is a list that neither JSON nor Python can read; save lists with json.dumps" in message


@pytest.mark.parametrize(("content", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables_that_cannot_be_read(folder: Path, content: bytes, message: str) -> None:
    (folder / "x.csv").write_bytes(content)
    assert message in said(folder / "x.csv")


def dumped(value: Any, **options: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, **options).encode()


JSON = {
    "an array in one line": ("x.json", dumped(RECORDS), None),
    "an array over many lines": ("x.json", dumped(RECORDS, indent=2), None),
    "after empty lines": ("x.json", b"\n\n " + dumped(RECORDS, indent=2), None),
    "with its mark": ("x.json", b"\xef\xbb\xbf" + dumped(RECORDS), None),
    "UTF-16, as PowerShell redirects": (
        "x.json",
        dumped(RECORDS, indent=1).decode().encode("utf-16"),
        "read as UTF-16",
    ),
    "escapes": ("x.json", json.dumps(RECORDS).encode(), None),
    "lines": ("x.json", b"\n".join(map(dumped, RECORDS)), None),
    "objects over many lines": ("x.json", b"\n".join(dumped(record, indent=2) for record in RECORDS), None),
    "a list in an object": (
        "x.json",
        dumped({"version": 1, "data": RECORDS}, indent=2),
        "reading the records under 'data'",
    ),
    "a mapping from ids": ("x.json", dumped({"q1": RECORDS[0], "q2": RECORDS[1]}), "reading the values as records"),
    "JSON Lines": ("x.jsonl", b"\n".join(map(dumped, RECORDS)), None),
    "JSON Lines with Windows line ends": ("x.jsonl", b"\r\n".join(map(dumped, RECORDS)), None),
    "JSON Lines in UTF-16": (
        "x.ndjson",
        b"\n".join(map(dumped, RECORDS)).decode().encode("utf-16"),
        "read as UTF-16",
    ),
    "names in upper case": (
        "x.json",
        dumped([{key.title(): value for key, value in record.items()} for record in RECORDS]),
        None,
    ),
}


@pytest.mark.parametrize(("name", "content", "announced"), JSON.values(), ids=JSON)
def test_json(folder: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, announced: str | None) -> None:
    (folder / name).write_bytes(content)
    with caplog.at_level(logging.INFO, "feddat"):
        assert questions(folder / name) == EXPECTED
    messages = [record.message for record in caplog.records]
    assert len(messages) == (announced is not None)
    assert all(str(announced) in message for message in messages)


def test_a_single_record_and_an_empty_file(folder: Path) -> None:
    for name, content in (
        ("x.json", dumped(RECORDS[0])),
        ("y.json", dumped(RECORDS[:1])),
        ("z.jsonl", dumped(RECORDS[0])),
    ):
        (folder / name).write_bytes(content)
        assert questions(folder / name) == EXPECTED[:1]
    for content in (b"", b"[]", b"  \n"):
        (folder / "x.json").write_bytes(content)
        assert questions(folder / "x.json") == []


def test_ids_of_a_mapping_are_those_of_its_records(folder: Path) -> None:
    (folder / "x.json").write_bytes(dumped({"q1": RECORDS[0], "q2": RECORDS[1] | {"id": 7}}))
    assert [to_example(record, "vqa", folder).id for record in read_records(folder / "x.json")] == ["q1", "7"]


BAD_JSON = {
    "cut off": ("x.json", dumped(RECORDS)[:-9], ", after item 1: not JSON or cut off: "),
    "no JSON": ("x.json", b"image,question\n", ", at its beginning: not JSON or cut off: "),
    "Latin-1": ("x.json", dumped(RECORDS).decode().encode("latin-1"), ", line 1: not UTF-8 text: "),
    "a number in the array": ("x.json", dumped([RECORDS[0], 3]), ", item 2: expected a JSON object, got int"),
    "columns of values": (
        "x.json",
        dumped({key: {"0": RECORDS[0][key], "1": RECORDS[1][key]} for key in RECORDS[0]}),
        ": holds columns of values; expected an array of records (pandas: orient='records')",
    ),
    "settings": ("x.json", b'{"a": 1, "b": [1], "c": [2]}', "got an object with keys a, b, c"),
    "a key twice in an array": ("x.json", b'[{"image": "a", "image": "b"}]', "key 'image' occurs twice in one object"),
    "a key twice in a line": (
        "x.jsonl",
        b'{"image": "a", "image": "b"}',
        ", line 1: not JSON: key 'image' occurs twice",
    ),
    "an array in .jsonl": (
        "x.jsonl",
        dumped(RECORDS, indent=2),
        "; give a file with one JSON array a name that ends in .json",
    ),
    "nested too deeply": ("x.jsonl", b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", ", line 1: not JSON: "),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_cannot_be_read(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    assert message in said(folder / name)


@pytest.mark.parametrize("name", ["x.xlsx", "x.ods"])
def test_spreadsheets_are_to_be_saved_as_csv(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"expected \.jsonl, .*\.tsv, .*; save a spreadsheet as CSV"):
        read_records(folder / name)
