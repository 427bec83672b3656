"""Readers of a client's own data: what each format yields, and the errors about input that cannot be used."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from feddat.data.readers import read_client
from feddat.data.readers.own import FORMATS, read_records, top_answers
from feddat.data.readers.records import Record, SkippableError, to_example
from feddat.example import DataError, Example
from feddat.text import normal_answer, normal_text

FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records in the format of the path's suffix."""
    if path.suffix == ".csv":
        columns = list(dict.fromkeys(key for record in records for key in record))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for record in records:
                writer.writerow({k: "|".join(v) if isinstance(v, list) else v for k, v in record.items()})
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"image")
    return tmp_path


def question(text: str = "what?", answers: Any = "red", **more: Any) -> dict[str, Any]:
    return {"image": "a.png", "question": text, "answers": answers, **more}


def client(folder: Path, records: list[dict[str, Any]], tests: list[dict[str, Any]] | None = None, **spec: Any) -> Any:
    files = {
        "train": str(write(folder / "train.jsonl", records)),
        "test": str(write(folder / "test.jsonl", tests or [question()])),
    }
    return read_client("museum", files | spec)


def message(folder: Path, records: list[dict[str, Any]], **spec: Any) -> str:
    with pytest.raises(DataError) as caught:
        client(folder, records, **spec)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What readers yield


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("Red ", {"red": 1.0}),
        (["red", "Red", "dark  blue"], {"red": 0.6, "dark blue": 0.3}),
        (["yes"] * 4, {"yes": 1.0}),
        (["yes"] * 3 + ["no"], {"yes": 0.9, "no": 0.3}),
        ({"yes": 1, "maybe": 0.3}, {"yes": 1.0, "maybe": 0.3}),
    ],
)
def test_answers_become_soft_scores(folder: Path, answers: Any, expected: dict[str, float]) -> None:
    example = to_example(Record(folder / "x.jsonl", "line 1", question(answers=answers)), "vqa", folder)
    assert example.answers == expected


def test_other_columns_become_meta_and_images_are_looked_up_in_their_folder(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "c.png").write_bytes(b"image")
    records = [question(image="c.png", topic="colour", id=7), question(image="c.png")]
    data = client(folder, records, records, images=str(folder / "pictures"))
    assert data.test[0].images == (folder / "pictures" / "c.png",)
    assert data.test[0].meta == {"topic": "colour"}
    assert [example.id for example in data.test] == ["7", "line-2"]


def test_vocabulary_holds_the_most_frequent_answers_and_the_rest_is_dropped_from_train_only(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = [question(answers=a) for a in ("red", "blue", "red", "green", "blue", "red", "grey")]
    (folder / "validation.jsonl").write_text(json.dumps(question(answers="grey")))
    with caplog.at_level(logging.INFO, "feddat"):
        data = client(
            folder, train, [question(answers="green")], validation=str(folder / "validation.jsonl"), top_answers=2
        )
    assert data.answers == ("red", "blue")
    assert len(data.train) == 5
    assert len(data.validation) == len(data.test) == 1
    assert "2 of 7 training questions dropped" in caplog.text


def test_equally_frequent_answers_are_in_alphabetical_order() -> None:
    # 0.3 + 0.6 and 0.9 differ in the last bit; they must count as equal.
    examples = [Example(str(i), (), "?", a) for i, a in enumerate(({"b": 0.3, "z": 0.9}, {"b": 0.6}, {"never": 0.0}))]
    assert top_answers(examples, 10) == ("b", "z")


def test_a_tenth_of_train_is_held_out_the_same_way_every_time(folder: Path) -> None:
    records = [question(f"question {i}") for i in range(40)]
    first, second = client(folder, records), client(folder, records)
    held = [example.id for example in first.validation]
    assert len(held) == 4
    assert held == [example.id for example in second.validation]
    assert {e.id for e in first.train} | set(held) == {f"line-{i}" for i in range(1, 41)}
    assert len(first.train) == 36


@pytest.mark.parametrize("questions", [1, 2, 3])
def test_no_picture_is_in_both_parts(folder: Path, questions: int) -> None:
    for i in range(30):
        (folder / f"{i}.png").write_bytes(b"image")
    records = [question(f"question {i}") | {"image": f"{i % 30}.png"} for i in range(30 * questions)]
    found = client(folder, records)
    parts = [{image for example in part for image in example.images} for part in (found.train, found.validation)]
    assert not parts[0] & parts[1]
    assert len(found.validation) == 3 * questions


def test_examples_with_two_pictures_link_them(folder: Path) -> None:
    """Ten chains of three examples: each shows a picture together with the next one."""
    for i in range(40):
        (folder / f"{i}.png").write_bytes(b"image")
    pairs = [{"image": f"{i}.png", "image2": f"{i + 1}.png", "question": "?", "label": "true"} for i in range(40)]
    records = [pair for i, pair in enumerate(pairs[:-1]) if i % 4 != 3]
    found = client(folder, records, records[:1], task="nlvr2")
    parts = [{image for example in part for image in example.images} for part in (found.train, found.validation)]
    assert not parts[0] & parts[1]
    assert len(found.validation) == 3


def test_votes_that_never_reach_a_full_score_are_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    client(folder, [question(answers=["red"]), question(answers=["blue"])])
    assert "not as a list" in caplog.text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_class_label_tasks(folder: Path, suffix: str) -> None:
    pair = {"image": "a.png", "image2": "b.png", "question": "Both are red.", "label": "true"}
    entail = {"image": "a.png", "question": "A dog.", "label": "contradiction"}
    choice = {"image": "a.png", "question": "Why?", "choices": ["w", "x", "y", "z"], "label": 2}
    for task, record, label, images in (("nlvr2", pair, 1, 2), ("snli-ve", entail, 2, 1), ("vcr", choice, 2, 1)):
        path = str(write(folder / f"{task}{suffix}", [record, record]))
        data = read_client("c", {"train": path, "test": path, "task": task})
        assert data.task == task
        assert data.answers == ()
        assert [example.label for example in data.test] == [label, label]
        assert len(data.test[0].images) == images
    assert data.test[0].choices == ("w", "x", "y", "z")


# Round trip: any records, through each format

words = st.text(st.characters(codec="utf-8", exclude_characters="|\x00"), min_size=1, max_size=12).filter(
    lambda text: normal_text(text).strip()
)
vqa_records = st.lists(
    st.fixed_dictionaries({"image": st.sampled_from(["a.png", "b.png"]), "question": words, "answers": words}),
    min_size=1,
    max_size=8,
)
voted_records = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(["a.png", "b.png"]),
            "question": words,
            "answers": st.lists(words, min_size=2, max_size=5),
        }
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@FEW
@given(records=vqa_records | voted_records)
def test_any_records_come_back_as_written(folder: Path, suffix: str, records: list[dict[str, Any]]) -> None:
    path = write(folder / f"any{suffix}", records)
    examples = [to_example(record, "vqa", folder) for record in read_records(path)]
    assert [e.text for e in examples] == [normal_text(r["question"]).strip() for r in records]
    assert [e.images for e in examples] == [(folder / r["image"],) for r in records]
    for example, record in zip(examples, records, strict=True):
        answers = record["answers"]
        votes = [normal_answer(a) for a in ([answers] if isinstance(answers, str) else answers)]
        assert set(example.answers) == set(votes)
        if isinstance(answers, list):
            assert example.answers[votes[0]] == pytest.approx(min(1, 0.3 * votes.count(votes[0])))


@FEW
@given(line=st.text(max_size=30))
def test_any_line_is_an_example_or_a_data_error(folder: Path, line: str) -> None:
    path = folder / "any.jsonl"
    path.write_text(line, encoding="utf-8", errors="surrogatepass")
    try:
        for record in read_records(path):
            to_example(record, "vqa", folder)
    except DataError as error:
        assert str(path) in str(error)


@FEW
@given(text=st.text(max_size=60))
def test_any_text_as_csv_is_read_or_a_data_error(folder: Path, text: str) -> None:
    path = folder / "any.csv"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        for record in read_records(path):
            to_example(record, "vqa", folder)
    except DataError as error:
        assert str(path) in str(error)


def test_map_and_struct_answers_of_parquet(folder: Path) -> None:
    kind = pyarrow.map_(pyarrow.string(), pyarrow.float64())
    maps = pyarrow.array([[("red", 1.0)], [("blue", 0.3), ("grey", 0.6)]], kind)
    structs = [{"red": 1.0}, {"blue": 0.3, "grey": 0.6}]
    columns = {"image": ["a.png", "b.png"], "question": ["x", "y"]}
    parquet.write_table(pyarrow.table(columns | {"answers": maps}), folder / "map.parquet")
    parquet.write_table(pyarrow.table(columns | {"answers": structs}), folder / "s.parquet")
    for name in ("map", "s"):
        scores = [to_example(r, "vqa", folder).answers for r in read_records(folder / f"{name}.parquet")]
        assert scores == [{"red": 1.0}, {"blue": 0.3, "grey": 0.6}]


def test_a_csv_cell_over_several_lines_and_a_byte_order_mark(folder: Path) -> None:
    path = folder / "x.csv"
    path.write_text('\ufeffimage,question,answers\na.png,"one\ntwo",red\nb.png,,red\n', encoding="utf-8")
    first, second = read_records(path)
    assert (first.fields["question"], first.place) == ("one\ntwo", "line 2")
    assert second.place == "line 4"
    with pytest.raises(SkippableError, match="line 4: question: expected text, got None"):
        to_example(second, "vqa", folder)


# Errors about input that cannot be used


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"image": "a.png", "question": "?"}, "column 'answers' is missing (columns: image, question)"),
        (question(answers=["red", ["blue"]]), "answers: expected a text, a list of texts, or a mapping from answer to"),
        (question(answers={"red": 2}), "score of 'red' must be in [0, 1], got 2"),
        (question(image="nowhere.png"), "image: no such image file"),
        (question(image="x" * 5000), "image: no such image file"),
        (question(image=5), "image: expected the name or the bytes of an image, got 5"),
        (question(text=["what?"]), "question: expected text, got ['what?']"),
        (question(id=1.5), "id: expected text or a whole number, got 1.5"),
        (question(id="line-1"), "duplicate id 'line-1', first used in line 1"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(folder: Path, record: dict[str, Any], said: str) -> None:
    text = message(folder, [question(), record])
    assert text.startswith(f"{folder / 'train.jsonl'}, line 2: ")
    assert said in text


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("snli-ve", {"label": 3}, "label: expected 0 to 2 or one of entailment, neutral, contradiction, got 3"),
        ("snli-ve", {"label": True}, "label: expected 0 to 2"),
        ("nlvr2", {"label": 1}, "column 'image2' is missing"),
        ("vcr", {"label": 0, "choices": ["a", "b"]}, "choices: expected a list of 4 texts"),
        ("vcr", {"label": 4, "choices": ["a", "b", "c", "d"]}, "label: expected 0 to 3, got 4"),
    ],
)
def test_bad_labels_and_choices(folder: Path, task: str, more: dict[str, Any], said: str) -> None:
    record = {"image": "a.png", "question": "?"} | more
    assert said in message(folder, [record], task=task)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"image": \n', "line 1: not JSON"),
        ("[1]\n", "line 1: expected a JSON object, got '[1]'"),
        ("\n \n", "train: {path} holds no records"),
    ],
)
def test_a_bad_file_is_named(folder: Path, content: str, said: str) -> None:
    path = folder / "bad.jsonl"
    path.write_text(content)
    assert said.format(path=path) in message(folder, [question()], train=str(path))


@pytest.mark.parametrize("suffix", sorted(set(FORMATS)))
def test_bytes_that_are_no_text_are_refused(folder: Path, suffix: str) -> None:
    path = folder / f"bad{suffix}"
    path.write_bytes(b"image,question\n\xff\xfe\x00,\n")
    with pytest.raises(DataError, match=r"not UTF-8|not a readable Parquet file"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,image\n", "line 1: a column occurs twice"),
        ("image,question,answers\na.png,what\n", "line 2: expected 3 cells (as the header), got 2"),
    ],
)
def test_malformed_csv(folder: Path, content: str, said: str) -> None:
    path = folder / "bad.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(said)):
        list(read_records(path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"trian": "x"}, "client 'museum': unknown key 'trian'; did you mean 'train'?"),
        ({"test": None}, "client 'museum': key 'test' is missing"),
        ({"task": "vqaa"}, "unknown task 'vqaa'; did you mean 'vqa'?"),
        ({"top_answers": 0}, "top_answers: expected a whole number of at least 1, got 0"),
        ({"images": "/nowhere"}, "images: no such folder: /nowhere"),
        ({"train": 3}, "train: expected a path, got 3"),
        ({"train": "/nowhere.jsonl"}, "/nowhere.jsonl: no such file"),
        (
            {"train": "/nowhere.xlsx"},
            "unknown format '.xlsx'; expected .jsonl, .ndjson, .json, .csv, .tsv, .parquet; save",
        ),
    ],
)
def test_a_bad_specification_is_named(folder: Path, spec: dict[str, Any], said: str) -> None:
    assert said in message(folder, [question()], **spec)


def test_too_little_to_hold_out_from(folder: Path) -> None:
    assert "give a validation file" in message(folder, [question()])


def test_parquet_without_pyarrow_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder / "x.parquet", [question()])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'feddat\[parquet\]'"):
        list(read_records(path))


RENAMED = {"image": "Bild", "question": "Frage", "answers": "Antworten", "id": "Nr."}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_may_have_other_names(folder: Path, suffix: str) -> None:
    """Lists of answers in cells, and separators that the header alone tells, are known by the given names, too."""
    records = [
        {"Nr.": f"q{n}", "Bild": "b.png", "Frage": f"what {n}?", "Antworten": ["red", "blue"], "question": "no"}
        for n in range(3)
    ]
    path = write(folder / f"x{suffix}", records)
    if suffix == ".csv":
        path.write_text(path.read_text().replace(",", ";").replace("Frage", " Frage "))
    found = read_client("museum", {"train": str(path), "test": str(path), "columns": RENAMED})
    assert [(e.id, e.text, dict(e.answers)) for e in found.test] == [
        (f"q{n}", f"what {n}?", {"red": 0.3, "blue": 0.3}) for n in range(3)
    ]
    assert found.test[0].images == (folder / "b.png",)


@pytest.mark.parametrize(
    "columns",
    [
        {"question": "Question", "answers": "Answers"},
        {"question": " Question ", "answers": " Answers "},
        {"question": "question", "answers": "answers"},
        {},
    ],
)
def test_columns_of_tables_may_be_named_as_in_the_header(folder: Path, columns: dict[str, str]) -> None:
    (folder / "x.csv").write_text("image; Question ;Answers\na.png;what?;red|blue\nb.png;which?;red\n")
    found = read_client(
        "museum", {"train": str(folder / "x.csv"), "test": str(folder / "x.csv"), "columns": columns or None}
    )
    assert [(e.text, dict(e.answers)) for e in found.test] == [
        ("what?", {"red": 0.3, "blue": 0.3}),
        ("which?", {"red": 1.0}),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_dots_reach_into_the_objects_of_a_column(folder: Path, suffix: str) -> None:
    votes = [{"answer": "red", "id": 1}, {"answer": "blue", "id": 2}]
    rows = [{"image": "a.png", "question": "what?", "Votes": votes if suffix == ".jsonl" else json.dumps(votes)}] * 2
    path = write(folder / f"x{suffix}", rows)
    columns = {"answers": "Votes.answer"}
    found = read_client("museum", {"train": str(path), "test": str(path), "columns": columns})
    assert dict(found.test[0].answers) == {"red": 0.3, "blue": 0.3}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (RENAMED | {"question": "Fragen"}, r"line 2: column 'Fragen', named as question: no 'Fragen' \(columns: Bild,"),
        (
            {"Frage": "question"},
            r"client 'museum': columns: unknown column 'Frage'; .*; ours: id, image, ",
        ),
        (["Frage"], r"client 'museum': columns: expected our column: their column, got \['Frage'\]"),
    ],
)
def test_columns_named_wrongly(folder: Path, columns: Any, said: str) -> None:
    path = write(folder / "x.csv", [{"Bild": "a.png", "Frage": "what?", "Antworten": "red", "Nr.": "1"}])
    with pytest.raises(DataError, match=said):
        read_client("museum", {"train": str(path), "test": str(path), "columns": columns})
