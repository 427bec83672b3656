"""Data that cannot count is reported in the log, beside the scores and on the page; nodes do not tell the server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from feddat.cli import main
from feddat.client.data_notes import SplitNotes, examine, sentence
from feddat.config import load_config
from feddat.example import OUTSIDE, ClientData, Example
from feddat.experiment import Experiment
from feddat.experiment.serving import flower
from feddat.experiment.serving.app_config import AppConfig, to_flat
from feddat.models.catalog import FAMILIES, load_encoder
from feddat.report import data_table
from feddat.tasks import make_task
from helpers import make_unit


def picture(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def example(number: int, text: str = "what ?", answer: str = "red", image: Any = None, **more: Any) -> Example:
    answers = {} if "label" in more else {answer: 1.0}
    return Example(str(number), (picture(number) if image is None else image,), text, answers, **more)


def notes(
    train: list[Example], test: list[Example], task: str = "vqa", encoder: Any = None, **more: Any
) -> dict[str, SplitNotes]:
    data = ClientData("c", task, tuple(train), (), tuple(test), ("red", "blue") if task == "vqa" else (), **more)
    member: Any = SimpleNamespace(data=data, task=make_task(task, data.answers))
    reads_all: Any = SimpleNamespace(unread=lambda texts: [None] * len(texts))
    return examine(member, encoder or reads_all)


def test_nothing_is_said_of_good_data() -> None:
    assert notes([example(1), example(2)], [example(3, answer="blue")]) == {}


def test_questions_with_other_answers_are_counted() -> None:
    tests = [example(3, answer="green"), example(4), example(5, answer="dark red")]
    found = notes([example(1)], tests, left_out={"train": {OUTSIDE: 4, "without an answer": 2}})
    assert found == {"train": SplitNotes(1, left_out=2, unanswerable=4), "test": SplitNotes(3, unanswerable=2)}
    zero = Example("6", (picture(6),), "what ?", {"red": 0.0, "green": 1.0})
    assert notes([example(1)], [zero])["test"].unanswerable == 1
    assert sentence("c", "test", SplitNotes(8, unanswerable=8)) == (
        "client c: test: none of the 8 questions can be answered, so the score is 0 %: "
        "their answers are not among the answers of train"
    )
    assert sentence("c", "test", SplitNotes(8, unanswerable=2, cut=1)) == (
        "client c: test: of 8 questions: 2 cannot be answered with the answers of train, "
        "1 are longer than the model reads"
    )


def test_labels_can_always_be_given() -> None:
    assert notes([example(1, label=0)], [example(2, label=2)], "snli-ve") == {}


def test_repeated_questions_are_counted_and_others_about_the_same_picture_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"a")
    same = [example(1), example(1), example(1, text="how many ?"), example(2)]
    assert notes(same, [example(3)]) == {"train": SplitNotes(4, repeated=1)}
    assert notes([example(n, image=file) for n in range(3)], [example(9)]) == {"train": SplitNotes(3, repeated=2)}
    assert notes([example(n, image=b"png") for n in range(3)], [example(9)])["train"].repeated == 2


@pytest.mark.parametrize("kind", ["the same file", "a copy", "bytes", "pixels"])
def test_pictures_of_test_that_train_has_are_counted(tmp_path: Path, kind: str) -> None:
    def image(name: str, number: int) -> Any:
        if kind == "bytes":
            return picture(number).tobytes()
        if kind == "pixels":
            return picture(number)
        path = tmp_path / (f"{number}.png" if kind == "the same file" else f"{name}-{number}.png")
        Image.fromarray(picture(number)).resize((200, 200)).save(path)
        return path

    train = [example(n, image=image("train", n)) for n in (1, 2, 3)]
    test = [example(n, image=image("test", n), text="is it ?") for n in (3, 4, 1)]
    assert notes(train, test) == {"test": SplitNotes(3, seen=2)}


def test_files_of_one_size_are_compared_at_both_ends(tmp_path: Path) -> None:
    contents = [bytes(200_000), bytes(199_999) + b"1", b"1" + bytes(199_999), bytes(200_000)]
    files = [tmp_path / f"{number}.dcm" for number in range(4)]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    found = notes([example(0, image=files[0])], [example(n, image=files[n]) for n in (1, 2, 3)])
    assert found["test"].seen == 1
    missing = notes([example(0, image=files[0])], [example(1, image=tmp_path / "nowhere.dcm")])
    assert missing == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_a_model_does_not_read_whole(tmp_path: Path, family: str) -> None:
    encoder = load_encoder(str(make_unit(family, tmp_path / family)))
    long, fits = "red " * 300, "red blue green"
    assert encoder.unread([fits, long, "  "]) == [None, "cut", "empty"]
    assert encoder.unread([]) == []
    if family in ("vilt", "vilt-bert", "blip", "albef", "clip", "siglip"):
        # Of a cut text, the model reads as much as of the longest text that fits.
        reds = [" ".join(["red"] * count) for count in range(30)]
        most = encoder.unread(reds[1:]).index("cut")
        shorter, longest, cut = encoder.texts(reds[most - 1 : most + 2])
        assert shorter != longest == cut
    if family == "albef":
        assert encoder.unread(["?!", "a " * 51]) == ["empty", "cut"]


def test_of_several_texts_the_worst_counts(tmp_path: Path) -> None:
    encoder = load_encoder(str(make_unit("vilt", tmp_path / "vilt")))
    question = example(1, text="", label=0, choices=("red", "blue", "red " * 300, "green"))
    empty = example(2, text="", label=0, choices=("", " ", "red", "blue"))
    assert notes([question, empty], [], "vcr", encoder) == {"train": SplitNotes(2, cut=1, empty=1)}


# The whole way

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(share: str = "scores", runs: str = "runs") -> Path:
        for number in range(8):
            Image.fromarray(picture(number)).resize((40, 40)).save(tmp_path / f"{number}.png")
        colours = ["red", "blue"] * 4

        def lines(name: str, answers: list[str], first: int = 0) -> None:
            records = [
                {"image": f"{first + n % 4}.png", "question": f"what {n} ?", "answers": answer}
                for n, answer in enumerate(answers)
            ]
            (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))

        lines("train.jsonl", colours)
        lines("good.jsonl", colours[:2], first=4)
        lines("bad.jsonl", ["green", "grey", "pink", "red"], first=2)
        lines("hopeless.jsonl", ["green"] * 3, first=4)
        spec = "train: train.jsonl, validation: good.jsonl"
        (tmp_path / "x.yaml").write_text(
            f"name: x\nruns_dir: {tmp_path / runs}\nrounds: 1\nshare_metrics: {share}\nclients:\n"
            f"  fine: {{{spec}, test: good.jsonl}}\n  poor: {{{spec}, test: bad.jsonl}}\n"
            f"  hopeless: {{{spec}, test: hopeless.jsonl}}\n"
        )
        return tmp_path / "x.yaml"

    return write


def test_a_run_says_which_questions_cannot_count(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--config", str(write())])
    assert not ended.value.code
    shown = capsys.readouterr().out
    hopeless = "client hopeless: test: none of the 3 questions can be answered, so the score is 0 %"
    assert f"warning: {hopeless}" in shown.replace("\n", " ")
    assert "client fine" not in shown
    table = shown[shown.index(data_table.TITLE) :].split("\n")
    assert [line.split() for line in table if line.strip().startswith(("poor", "hopeless"))] == [
        ["poor,", "test", "4", "3", "2"],
        ["hopeless,", "test", "3", "3"],
    ]

    folder = tmp_path / "runs" / "x"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["clients"]["hopeless"]["dat"] == 0.0
    assert summary["data"] == {
        "poor": {"test": {"questions": 4, "unanswerable": 3, "seen": 2}},
        "hopeless": {"test": {"questions": 3, "unanswerable": 3}},
    }
    told = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = [line for line in told if line["event"] == "data"]
    assert [(line["client"], line["unanswerable"], line["grave"]) for line in told] == [
        ("poor", 3, True),
        ("hopeless", 3, True),
    ]
    assert hopeless in told[1]["message"]
    page = (folder / "report.html").read_text()
    assert "Issues in the clients' data: " in page
    assert "<th scope='row'>hopeless</th><td>test</td><td>3</td><td>3</td>" in page


@pytest.mark.parametrize("share", ["counts", "none"])
def test_clients_that_keep_their_scores_keep_these_counts_too(write: Write, tmp_path: Path, share: str) -> None:
    summary = Experiment.load(write(share)).run()
    assert "data" not in summary
    assert data_table.data_table([summary]) is None
    assert "cannot be answered" not in (tmp_path / "runs" / "x" / "report.html").read_text()


def test_a_node_says_it_in_its_own_log_once_and_the_server_is_not_told(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write()
    data = "{train: train.jsonl, validation: good.jsonl, test: hopeless.jsonl}"
    (tmp_path / "client.yaml").write_text(f"client: north\ndata: {data}\n")
    run = load_config(None, None, clients={"north": {}}, benchmark=None, rounds=1)
    node: Any = {"client": "north", "data": str(tmp_path / "client.yaml")}
    context: Any = SimpleNamespace(run_config=to_flat(AppConfig(run)), node_config=node)
    sites = [flower.site(context, "run-1") for _ in range(2)]
    said = [record.getMessage() for record in caplog.records if "can be answered" in record.getMessage()]
    assert said == [sentence("north", "test", SplitNotes(3, unanswerable=3))]
    assert {name for site in sites for name in site.who.members} == {"north"}
    told = {field.name for field in dataclasses.fields(sites[0].who)}
    assert told == {"name", "members", "parameters", "sharing", "examples", "kept"}


def test_a_table_of_many_clients_is_cut() -> None:
    data = {f"client|{n}": {"test": {"questions": 9, "cut": 1}} for n in range(data_table.MOST_ROWS + 5)}
    table = data_table.data_table([{"data": data}])
    assert table is not None and len(table.rows) == data_table.MOST_ROWS
    assert table.caption == "cut: text longer than the model's limit; 5 more rows are in summary.json"
    assert table.headings == ["client", "split", "questions", "cut"]
    assert "| client\\|0 | test | 9 | 1 |" in data_table.to_markdown(table)


@pytest.mark.parametrize("model", ["vilt-mini", "albef-mini"])
def test_a_text_of_unknown_words_alone_is_not_read(model):
    encoder = load_encoder(model)
    assert encoder.unread(["質問は何ですか", "Что это?"]) == ["empty", "empty"]
    assert encoder.unread(["Größe of what?", "what is 質問?", "where, 5?"]) == [None, None, None]
