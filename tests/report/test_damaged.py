"""Folders and files that are not whole: the error names the file and what was expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import make_comparison, make_run, summary

from feddat.cli import main
from feddat.example import DataError
from feddat.report.folder import check_summary, kind_of, read_folder
from feddat.report.record import read_lines

GOOD = summary("local")
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([GOOD], "expected a JSON object with the keys method, clients, mean, rounds, seed"),
    "empty": ({}, "key 'method' is missing"),
    "no seed": ({key: value for key, value in GOOD.items() if key != "seed"}, "key 'seed' is missing"),
    "method": (GOOD | {"method": None}, "method: expected text, got null"),
    "seed": (GOOD | {"seed": True}, "seed: expected a whole number, got true"),
    "rounds": (GOOD | {"rounds": "10"}, 'rounds: expected a whole number, got "10"'),
    "mean": (GOOD | {"mean": [1]}, r"mean: expected a number, got \[1\]"),
    "clients": (GOOD | {"clients": ["art"]}, r'clients: expected scores by client and route, got \["art"\]'),
    "a client": (GOOD | {"clients": {"art": {}}}, "clients: expected scores by client and route"),
    "a score": (GOOD | {"clients": {"art": {"score": "1"}}}, "clients: expected scores by client and route"),
    "bytes": (GOOD | {"bytes": 5}, "bytes: expected an object, got 5"),
    "missing": (GOOD | {"missing": "art"}, 'missing: expected a list, got "art"'),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_reader_of_summaries_refuses_one_that_is_not_whole(tmp_path: Path, case: str) -> None:
    content, reason = WRONG[case]
    run, both = make_run(tmp_path / "run"), make_comparison(tmp_path / "both", ("local",), 1)
    record, newcomers = tmp_path / "record.jsonl", tmp_path / "newcomers" / "newcomers.json"
    (run / "summary.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"run/summary\.json: {reason}"):
        read_folder(run)
    (both / "comparison.json").write_text(json.dumps({"runs": [GOOD, content]}))
    with pytest.raises(DataError, match=rf"comparison\.json: runs\[1\]: {reason}"):
        read_folder(both)
    record.write_text(json.dumps({"run": "1", "settings": {}, "summary": content, "curve": []}) + "\n")
    with pytest.raises(DataError, match=r"record\.jsonl, line 1: "):
        read_lines(record)
    newcomers.parent.mkdir()
    newcomers.write_text(json.dumps({"benchmark": "mini/domain", "epochs": 1, "runs": [content]}))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(newcomers.parent)])
    assert ended.value.code == 2


def test_a_run_whose_clients_all_keep_their_scores_has_a_summary() -> None:
    content = GOOD | {"clients": {}, "mean": None}
    assert check_summary(content, "x") == content


FILES: dict[str, tuple[str, bytes, str]] = {
    "settings that are no text": ("config.yaml", b"method: \xff", "config.yaml: not UTF-8 text"),
    "a summary that is no text": ("summary.json", b"\xff", "summary.json: not UTF-8 text"),
    "a torn summary": ("summary.json", b'{"method": ', "summary.json: not JSON"),
    "a deep summary": ("summary.json", b"[" * 200_000, "summary.json: not JSON"),
    "a deep line": ("metrics.jsonl", b"[" * 200_000 + b"\n", "metrics.jsonl, line 1: not JSON"),
    "a score of nobody": ("metrics.jsonl", b'{"round": 1, "score": 5}\n', "scores[0]: key 'client' is missing"),
    "no list of answers": ("predictions.json", b"{}", "predictions.json: expected a list"),
    "an empty answer": ("predictions.json", b"[{}]", "predictions.json[0]: key 'client' is missing"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_a_run_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, content, reason = FILES[case]
    (make_run(tmp_path / "run") / name).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert reason in error and str(tmp_path / "run") in error


def test_a_search_in_a_comparison_is_checked(tmp_path: Path) -> None:
    file = make_comparison(tmp_path / "both", ("local",), 1) / "comparison.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tuning": {"keys": ["train.lr"], "scores": {}}}))
    with pytest.raises(DataError, match=r"comparison\.json: tuning: key 'best' is missing"):
        read_folder(file.parent)


@pytest.mark.parametrize(
    "change",
    [{"run": []}, {"settings": None}, {"summary": 3}, {"curve": None}, {"curve": [3]}, {"curve": [{"round": 1}]}],
)
def test_a_line_with_other_things_than_a_run_is_not_of_a_record(tmp_path: Path, change: dict[str, Any]) -> None:
    line = {"run": "1", "settings": {}, "summary": GOOD, "curve": [{"round": 1, "train": {}, "updates": {}}]}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(line) + "\n" + json.dumps(line | change) + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 2: not a line of a record of runs"):
        read_lines(file)


def test_the_first_file_that_a_folder_has_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither summary\.json nor comparison\.json in this folder$"):
        kind_of(tmp_path)
    for kind in ("run", "comparison", "newcomers", "study", "suite"):
        name = "summary" if kind == "run" else kind
        (tmp_path / f"{name}.json").touch()
        assert kind_of(tmp_path) == kind
