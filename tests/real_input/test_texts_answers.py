"""Answers, labels, questions and names as people and programs write them: read, skipped and counted, or refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from data.readers.layouts import write_tree
from feddat.data.readers import read_client
from feddat.data.readers.records import Record, to_example
from feddat.data.readers.vqa_answers import normalise_answer
from feddat.example import ClientData, DataError
from feddat.text import find_file, normal_answer, normal_text

NAN = float("nan")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"image")
    return tmp_path


def record(task: str = "vqa", **values: Any) -> dict[str, Any]:
    usual = {
        "vqa": {"image": "a.png", "question": "what ?", "answers": "red"},
        "nlvr2": {"image": "a.png", "image2": "b.png", "question": "both are red", "label": 1},
        "snli-ve": {"image": "a.png", "question": "a dog", "label": 0},
        "vcr": {"image": "a.png", "question": "why ?", "choices": ["w", "x", "y", "z"], "label": 2},
    }
    return usual[task] | values


def read(folder: Path, records: list[dict[str, Any]], task: str = "vqa", **spec: Any) -> ClientData:
    """Return a client with these training records and two more; validation and test have three records."""
    for name, content in (("train", records), ("test", [record(task)])):
        lines = [json.dumps(line) + "\n" for line in [*content, record(task, id="y"), record(task, id="z")]]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {"train": "train.jsonl", "validation": "test.jsonl", "test": "test.jsonl"}
    return read_client("c", {"task": task} | {key: str(folder / file) for key, file in files.items()} | spec)


ANSWERS = {
    "text": ("Red", {"red": 1.0}),
    "a whole number": (3, {"3": 1.0}),
    "one that a data frame made of it": (3.0, {"3": 1.0}),
    "a number": (1.5, {"1.5": 1.0}),
    "true": (True, {"true": 1.0}),
    "zero": (0, {"0": 1.0}),
    "false": (False, {"false": 1.0}),
    "votes": (["yes", "yes", "no"], {"yes": 0.6, "no": 0.3}),
    "votes of numbers": ([2, 2.0, "2", "two"], {"2": 0.9, "two": 0.3}),
    "ten votes, one of them null": (["yes"] * 9 + [None], {"yes": 1.0}),
    "ten votes, two of them blank": (["yes"] * 3 + ["no"] * 5 + ["", " "], {"yes": 0.9, "no": 1.0}),
    "VQA v2's own list": (
        [{"answer": "net", "answer_confidence": "yes", "answer_id": 1}, {"answer": "net"}, {"answer": None}],
        {"net": 0.6},
    ),
    "a struct of lists, as the Hub has it": ({"answer": ["net", "Net"], "answer_id": [1, 2]}, {"net": 0.6}),
    "one object": ({"answer": "net", "answer_confidence": "maybe"}, {"net": 1.0}),
    "scores": ({"yes": 1, "Yes": 0.3, "no": 0.6}, {"yes": 1.0, "no": 0.6}),
    "the score of the word answer": ({"answer": 0.5}, {"answer": 0.5}),
    "a score of nothing": ({"": 0.3, "yes": 1.0}, {"yes": 1.0}),
}


@pytest.mark.parametrize(("given_answers", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_answers_with_one_meaning_are_read(folder: Path, given_answers: Any, expected: dict[str, float]) -> None:
    assert read(folder, [record(answers=given_answers)]).train[0].answers == pytest.approx(expected)


@pytest.mark.parametrize(
    "nothing", [None, "", "  ", "\u200b\u00a0", [], {}, [None, ""], {"answer": None}, NAN, {"": 1.0}]
)
def test_questions_without_an_answer_are_skipped_and_counted(
    folder: Path, nothing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = read(folder, [record(answers=nothing)] * 3)
    assert [example.id for example in data.train] == ["y", "z"]
    assert f"client c: train: records of {folder / 'train.jsonl'} skipped: 3 without an answer" in caplog.text


def test_blank_votes_are_counted_where_their_question_is_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(folder, [record(answers=["yes", None]), record(answers=["no", "", " "]), record(answers=[None] * 10)])
    assert f"client c: train: blank votes of {folder / 'train.jsonl'} left out: 3" in caplog.text


@pytest.mark.parametrize(
    "votes", [["yes", ["no"]], [{"score": 1}], [["yes"]], {"yes": 1.5}, {"yes": None}, {"yes": True}]
)
def test_answers_of_no_meaning_are_refused(folder: Path, votes: Any) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: answers: "):
        read(folder, [record(answers=votes)])


@pytest.mark.parametrize(
    ("task", "label", "expected"),
    [
        ("snli-ve", "Entailment", 0),
        ("snli-ve", " neutral ", 1),
        ("snli-ve", "2", 2),
        ("snli-ve", 2.0, 2),
        ("snli-ve", "1.0", 1),
        ("nlvr2", True, 1),
        ("nlvr2", "FALSE", 0),
        ("vcr", 3.0, 3),
    ],
)
def test_labels(folder: Path, task: str, label: Any, expected: int) -> None:
    assert read(folder, [record(task, label=label)], task).train[0].label == expected


@pytest.mark.parametrize("task", ["snli-ve", "nlvr2", "vcr"])
@pytest.mark.parametrize("label", [-1, "-1", -1.0, "-", None, "", NAN])
def test_unlabelled_records_are_skipped_and_counted(
    folder: Path, task: str, label: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = read(folder, [record(task, label=label)], task)
    assert [example.id for example in data.train] == ["y", "z"]
    assert "skipped: 1 without a label" in caplog.text


@pytest.mark.parametrize(
    ("task", "label"),
    [
        ("snli-ve", True),
        ("snli-ve", -2),
        ("snli-ve", 1.5),
        ("snli-ve", "entails"),
        ("nlvr2", 2),
        ("vcr", "x"),
        ("vcr", [1]),
    ],
)
def test_labels_of_no_meaning_are_refused(folder: Path, task: str, label: Any) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: label: expected 0 to "):
        read(folder, [record(task, label=label)], task)


@pytest.mark.parametrize("nothing", [None, "", " ", "\ufeff", NAN])
def test_records_without_a_question_are_skipped_and_counted(
    folder: Path, nothing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(read(folder, [record(question=nothing)]).train) == 2
    assert "skipped: 1 without a question" in caplog.text


@pytest.mark.parametrize("nothing", [None, "", NAN, {"bytes": None, "path": None}])
def test_a_null_image_is_a_missing_one(folder: Path, nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    records = [record(image=nothing), record(image="nowhere.png")]
    with pytest.raises(
        DataError, match=r"line 1: image: expected .*; set skip_missing: true to leave such records out"
    ):
        read(folder, records)
    assert len(read(folder, records, skip_missing=True).train) == 2
    assert "skipped: 2 with a missing image" in caplog.text


def test_a_split_of_which_nothing_is_left_says_why(folder: Path) -> None:
    (folder / "x.jsonl").write_text(json.dumps(record(answers=None)) + "\n" + json.dumps(record(question="")))
    with pytest.raises(DataError) as caught:
        read(folder, [], test=str(folder / "x.jsonl"))
    expected = f"{folder / 'x.jsonl'} holds no records that can be used: 1 without an answer, 1 without a question"
    assert str(caught.value) == f"client 'c': test: {expected}"


def test_ids_and_questions_that_are_numbers(folder: Path) -> None:
    data = read(folder, [record(id=7.0, question=5), record(id=None), record(id="")])
    assert [(example.id, example.text) for example in data.train[:3]] == [
        ("7", "5"),
        ("line-2", "what ?"),
        ("line-3", "what ?"),
    ]


def test_the_same_in_parquet(folder: Path) -> None:
    rows = [
        record(answers=["yes", None]) | {"id": 1.0},
        record(answers=["no"]) | {"id": 2.0},
        record(answers=None) | {"id": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "x.parquet")
    data = read(folder, [], train=str(folder / "x.parquet"))
    assert [(example.id, example.answers) for example in data.train] == [("1", {"yes": 0.3}), ("2", {"no": 0.3})]


def test_published_files_with_blank_votes_or_without_votes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree("vizwiz", tmp_path, ["train", "val"], 6)
    file = tmp_path / "Annotations" / "val.json"
    content = json.loads(file.read_text())
    content[0]["answers"][:2] = [{"answer": None}, {"answer": "  "}]
    content[1]["answers"] = [{"answer": ""}] * 10
    file.write_text(json.dumps(content))
    data = read_client("c", {"format": "vizwiz", "root": str(tmp_path)})
    assert len(data.test) == 5
    assert "skipped: 1 without an answer" in caplog.text
    assert "blank votes of vizwiz val in" in caplog.text


# One Unicode form

SAME_ANSWERS = [
    ["café", "cafe\u0301", "CAFÉ", "CAFE\u0301", "ｃａｆé", " café ", "ca\u00adfé", "\ufeffcafé", "café\u200b"],
    ["light blue", "light\u00a0blue", "Light  Blue", "light\u2009blue", "light\u3000blue", "\u200elight\tblue\u200f"],
    ["don't know", "don’t know", "DON‘T KNOW", "don＇t know", "donʼt know"],
    ["t-shirt", "t‐shirt", "t‑shirt", "T–shirt", "ｔ－shirt"],
    ["10:15", "１０：１５", "10：15"],
    ["ガス", "ｶﾞｽ", "カ\u3099ス"],
    ["ångström", "a\u030angstro\u0308m", "ÅNGSTRÖM", "\u212bngström"],
    ["한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"],
    ["οδός", "ΟΔΌΣ", "ΟΔΟ\u0301Σ"],
]


@pytest.mark.parametrize("spellings", SAME_ANSWERS, ids=[spellings[0] for spellings in SAME_ANSWERS])
def test_spellings_that_look_alike_are_one_answer(folder: Path, spellings: list[str]) -> None:
    data = read(folder, [record(answers=spelling) for spelling in spellings])
    assert set(data.answers) == {spellings[0], "red"}
    assert read(folder, [record(answers=spellings)]).train[0].answers.keys() == {spellings[0]}
    assert {normalise_answer(spelling) for spelling in spellings} == {normalise_answer(spellings[0])}


@pytest.mark.parametrize(
    ("one", "other"), [("10⁵", "105"), ("m²", "m2"), ("maße", "masse"), ("résumé", "resume"), ("½", "1/2"), ("ﬁ", "fi")]
)
def test_spellings_that_look_different_stay_two(one: str, other: str) -> None:
    assert normal_answer(one) != normal_answer(other)


@given(st.text(max_size=20))
def test_a_form_is_its_own_form_and_all_forms_of_unicode_have_one(text: str) -> None:
    for form in (normal_text, normal_answer):
        assert form(form(text)) == form(text)
        assert form(unicodedata.normalize("NFD", text)) == form(unicodedata.normalize("NFC", text))
        form(text).encode()
    assert normal_answer(text) == normal_answer(normal_text(text))


def test_ascii_texts_stay_as_they_are() -> None:
    text = "What  Color?\n- a 'red'\tone"
    assert normal_text(text) == text


def test_half_of_a_character_becomes_the_sign_for_a_broken_one(folder: Path) -> None:
    data = read(folder, [record(question="what \ud83d", answers="\ude00", topic="\ud83d", id="\ud83d")])
    example = data.train[0]
    assert (example.text, *example.answers, example.meta["topic"], example.id) == (
        "what \ufffd",
        "\ufffd",
        "\ufffd",
        "\ufffd",
    )


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("named", ["NFC", "NFD"])
def test_files_are_found_in_either_form(tmp_path: Path, stored: str, named: str) -> None:
    def in_form(name: str, form: Any) -> Path:
        return tmp_path / unicodedata.normalize(form, "Übung") / unicodedata.normalize(form, name)

    in_form("é.png", stored).parent.mkdir()
    in_form("é.png", stored).write_bytes(b"image")
    in_form("trän.csv", stored).write_text(
        f"image,question,answers\n{unicodedata.normalize(named, 'é.png')},what,red\n" * 2, encoding="utf-8"
    )
    assert find_file(in_form("é.png", named)) == in_form("é.png", stored)
    line = {"image": unicodedata.normalize(named, "é.png"), "question": "?", "answers": "red"}
    example = to_example(Record(tmp_path / "x", "line 1", line), "vqa", in_form("é.png", stored).parent)
    assert example.images == (in_form("é.png", stored),)
    assert find_file(in_form("trän.csv", named)).is_file()
    missing = in_form("ö.png", named)
    assert find_file(missing) == missing


def test_a_client_is_found_whose_file_names_are_in_another_form(tmp_path: Path) -> None:
    place = tmp_path / unicodedata.normalize("NFD", "Südhaus")
    place.mkdir()
    (place / "a.png").write_bytes(b"image")
    (place / unicodedata.normalize("NFD", "größe.jsonl")).write_text(json.dumps(record()) + "\n" + json.dumps(record()))
    file = str(tmp_path / "Südhaus" / "größe.jsonl")
    data = read_client("c", {"train": file, "test": file, "images": str(tmp_path / "Südhaus")})
    assert len(data.test) == 2
