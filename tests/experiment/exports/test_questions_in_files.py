"""``feddat predict`` over files, from a run and from an exported folder, and one question on the command line."""

import csv
import json

import pyarrow
import pytest
import stock
from answers import of_run, questions
from pyarrow import parquet

from feddat.data.answer_files import COLUMNS
from feddat.experiment import Experiment


@pytest.fixture
def run(finished):
    return finished(method="feddat")


@pytest.fixture
def exported(run, tmp_path):
    return Experiment.open(run).export(tmp_path / "ann", "ann")


#: Records of questions; answers and further fields in them are ignored.
RECORDS = [
    {"image": "test0.png", "question": "what is the color ?", "answers": "nonsense"},
    {"id": "two", "image": "test1.png", "question": "is it red ?"},
    {"image": "test2.png", "question": "what is the color ?", "note": "a note"},
]


def write(path, records):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({key for record in records for key in record}))
            writer.writeheader()
            writer.writerows(records)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [row | {k: row[k].split("|") for k in ("answers", "probabilities")} for row in csv.DictReader(file)]
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize(("source", "target"), [(".jsonl", ".csv"), (".csv", ".parquet"), (".parquet", ".jsonl")])
def test_a_file_is_answered_as_single_questions_are(run, exported, world, call, tmp_path, source, target):
    records = RECORDS if source != ".parquet" else [{**RECORDS[1], **record} for record in RECORDS]
    file, out = write(tmp_path / f"asked{source}", records), tmp_path / "new" / f"out{target}"
    options = ["--file", file, "--images", world / "ann", "--out", out, "--top", 2, "--batch", 2]
    assert call("predict", "--run", exported, *options) == 0
    rows = read(out)
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [row["question"] for row in rows] == [record["question"] for record in records]
    assert rows[1]["id"] == "two"
    asked = [stock.example(world / "ann" / record["image"], record["question"]) for record in records]
    for row, answers in zip(rows, of_run(run, "ann", asked), strict=True):
        assert row["answer"] == answers[0][0]
        assert row["answers"] == [name for name, _ in answers[:2]]
        assert [float(value) for value in row["probabilities"]] == pytest.approx([p for _, p in answers[:2]], abs=2e-5)
        assert float(row["probability"]) == float(row["probabilities"][0])
        assert not row["error"]


def test_a_run_answers_a_file_too_on_standard_output(run, world, call, capsys):
    asked = questions(run)
    assert call("predict", "--run", run, "--client", "ann", "--file", world / "ann" / "test.jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["answer"] for row in rows] == [answers[0][0] for answers in of_run(run, "ann", asked)]
    assert len(rows) == len(asked) == 6


BAD = {
    "a missing picture": ({"image": "gone.png", "question": "what ?"}, "no such image file"),
    "a picture that is none": ({"image": "text.png", "question": "what ?"}, "text.png"),
    "no question": ({"image": "test0.png"}, "column 'question' is missing"),
    "a picture elsewhere": ({"image": "../bob/test0.png", "question": "what ?"}, "outside"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_cannot_be_used_ends_it_or_gets_an_error(exported, world, call, tmp_path, capsys, name):
    record, message = BAD[name]
    images = tmp_path / "ann-images"
    images.mkdir()
    for n in range(3):
        (images / f"test{n}.png").write_bytes((world / "ann" / f"test{n}.png").read_bytes())
    (images / "text.png").write_text("no picture")
    file, out = write(tmp_path / "asked.jsonl", [RECORDS[0], record, RECORDS[1]]), tmp_path / "out.jsonl"
    options = ["--run", exported, "--file", file, "--images", images, "--out", out]
    assert call("predict", *options) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said
    assert not out.exists()
    assert call("predict", *options, "--keep-going") == 0
    first, bad, last = read(out)
    assert first["answer"] and last["answer"] and not first["error"] and not last["error"]
    assert (bad["answer"], bad["probability"], bad["answers"]) == (None, None, [])
    assert message in bad["error"]
    assert "1 record could not be used" in capsys.readouterr().err


def test_a_file_that_is_damaged_ends_it(exported, call, tmp_path, capsys):
    (tmp_path / "asked.jsonl").write_text('{"image": "a.png"\n')
    assert call("predict", "--run", exported, "--file", tmp_path / "asked.jsonl", "--keep-going") == 2
    assert "asked.jsonl, line 1: not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one question with --image and --question, or many with --file"),
        (["--image", "x.png"], "give one question"),
        (["--image", "gone.png", "--question", "what ?"], "gone.png: no such image file"),
        (["--file", "gone.csv"], "gone.csv: no such file"),
        (["--file", __file__, "--question", "what ?"], "leave out --image and --question"),
        (["--file", __file__, "--out", "answers.txt"], "answers.txt: unknown format '.txt'; expected .jsonl, .csv"),
        (["--file", __file__], "unknown format '.py'"),
        (["--image", __file__, "--question", "what ?", "--keep-going"], "need --file; leave them out"),
        (["--image", __file__, "--question", "what ?"], "test_questions_in_files.py: "),
        (
            ["--client", "ann", "--image", __file__, "--question", "?"],
            "an exported model has one client; leave out --client",
        ),
    ],
)
def test_wrong_uses_are_said_in_one_line(exported, call, capsys, options, message):
    assert call("predict", "--run", exported, *options) == 2
    said = capsys.readouterr()
    assert message in said.err.strip().splitlines()[-1]
    assert not said.out


def test_a_run_needs_a_client_and_an_export_has_a_model(run, world, call, tmp_path, capsys):
    one = ["--image", world / "ann" / "test0.png", "--question", "what is the color ?"]
    assert call("predict", "--run", run, *one) == 2
    assert "give --client, one of ann, bob" in capsys.readouterr().err
    assert call("predict", "--run", run, "--client", "eve", *one) == 2
    assert "client 'eve': not in this run" in capsys.readouterr().err
    assert call("predict", "--run", run, "--client", "ann", "--model", "vilt-mini", *one) == 2
    assert "--model:" in capsys.readouterr().err
    assert call("predict", "--run", tmp_path, *one) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_one_question_on_the_command_line(run, exported, world, call, capsys):
    one = ["--image", world / "ann" / "test0.png", "--question", "what is the color ?", "--top", 2]
    capsys.readouterr()
    assert call("predict", "--run", exported, *one) == 0
    found = capsys.readouterr().out
    assert call("predict", "--run", run, "--client", "ann", *one) == 0
    assert found == capsys.readouterr().out
    assert len(found.splitlines()) == 2
