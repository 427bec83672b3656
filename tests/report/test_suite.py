"""The tables and the page of a suite, and the tables of any folder in Markdown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_up import make_comparison, make_run

from feddat.example import DataError
from feddat.report.markdown import markdown
from feddat.report.page import write_report
from feddat.report.suite import write_suite

TUNING = {
    "keys": ["train.lr"],
    "benchmark": "mini/domain",
    "best": {"feddat": {"train.lr": 0.1}, "local": {"train.lr": 0.2}},
    "scores": {
        "feddat": {"train.lr=0.1": 50.0, "train.lr=0.2": 40.0},
        "local": {"train.lr=0.1": 30.0, "train.lr=0.2": 31.0},
    },
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for label in ("mini-domain", "mini-task"):
        file = make_comparison(tmp_path / label, ("feddat", "local"), seeds=2) / "comparison.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tuning": TUNING}))
    folders = {"mini/domain": "mini-domain", "mini/task": "mini-task", "mini/scene": "mini-scene"}
    content = {"suite": "mini", "description": "some federations", "folders": folders, "failed": {"x/<y>": "no disk"}}
    (tmp_path / "suite.json").write_text(json.dumps(content))
    return tmp_path


def test_a_suite_is_one_page_and_three_files(suite: Path) -> None:
    page = write_suite(suite).read_text(encoding="utf-8")
    for text in ("All federations", "mini/domain", "mini/task", "FedDAT", "Δ to FedDAT [95 %]", "no disk"):
        assert text in page
    assert 'href="mini-task/report.html"' in page
    assert "x/&lt;y&gt;" in page and "x/<y>" not in page
    assert "mini/scene" not in page, "nothing of it is done"
    text = (suite / "results.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["### All federations", "### mini/domain", "### mini/task", "### train.lr chosen on mini/domain"]
    # The levels are 66 for FedDAT and 55 for local; the clients' mean is 2 above that, and 3 with the second seed.
    assert "| 57.5 ± 0.7 | −11.0 [−11.0, −11.0] |" in text
    assert (suite / "results.csv").read_text().startswith("method,trained,sent,mini/domain mean,")
    assert (suite / "results.tex").read_text().count(r"\begin{tabular}") == 3
    assert markdown(suite) == text


def test_one_federation_needs_no_overview(suite: Path) -> None:
    shutil.rmtree(suite / "mini-task")
    write_suite(suite)
    assert "All federations" not in (suite / "results.md").read_text()


def test_folders_that_are_no_suites_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"suite\.json: No such file"):
        write_suite(tmp_path)
    for content, reason in (
        ([], "expected a JSON object with the keys suite, folders"),
        ({"suite": "x"}, "key 'folders' is missing"),
        ({"suite": "x", "folders": []}, "folders: expected the name of a folder for each federation"),
        ({"suite": "x", "folders": {"mini/domain": 1}}, "folders: expected the name of a folder for each federation"),
        ({"suite": "x", "folders": {}, "failed": ["run"]}, "failed: expected the reason for each run"),
    ):
        (tmp_path / "suite.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf"suite\.json: {reason}"):
            write_suite(tmp_path)
    (tmp_path / "suite.json").write_text('{"suite": "x", "folders": {"mini/domain": "mini-domain"}}')
    with pytest.raises(DataError, match="no comparison of this suite has a finished run"):
        write_suite(tmp_path)


def test_markdown_of_a_run_and_of_a_comparison(tmp_path: Path) -> None:
    assert markdown(make_run(tmp_path / "run")).startswith("| client | Dual teacher (DAT) | Local adapter |")
    text = markdown(make_comparison(tmp_path / "both", ("feddat", "local")))
    assert text.startswith("| method | trained | sent | art |")
    assert "Local only" in text


def test_a_comparison_leaves_the_papers_table_too(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "both", ("feddat", "local"))
    page = write_report(folder).read_text(encoding="utf-8")
    assert "its difference to FedDAT" in page
    assert "−11.0 [−11.0, −11.0]" in page
    assert (folder / "methods.md").read_text() == markdown(folder)
    assert (folder / "methods.tex").is_file() and (folder / "methods.csv").is_file()
