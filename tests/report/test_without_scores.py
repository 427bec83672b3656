"""Runs in which no client has a score: everything that shows scores says so in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import CLIENTS, make_comparison, make_run, summary

from feddat.example import DataError
from feddat.report import by_setting, record, tables
from feddat.report.conclusion import conclusion
from feddat.report.left_out import left_out
from feddat.report.markdown import markdown
from feddat.report.newcomers import write_newcomers
from feddat.report.page import write_report
from feddat.report.suite import write_suite

SAID = "No client has a score in "


def unscored(method: str, seed: int = 0, shared: bool = True) -> dict[str, Any]:
    """Return the summary of a run whose clients all failed in the last evaluation, or do not share their scores."""
    found = summary(method, seed) | {"clients": {}, "mean": None, "missing": list(CLIENTS)}
    return found if shared else found | {"not_shared": list(CLIENTS)}


def remove_scores(folder: Path, shared: bool = True) -> None:
    """Remove the final scores from a run's folder; the scores of its curve stay."""
    content = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(unscored(content["method"], content["seed"], shared)))


def test_such_runs_are_named() -> None:
    runs = [summary("fedavg"), unscored("feddat", 1), unscored("local", shared=False)]
    where = "FedDAT, seed 1 on mini/domain; Local only, seed 0 on mini/domain"
    assert left_out(runs) == [f"{SAID}{where}."]
    assert left_out([unscored("feddat")]) == [f"{SAID}FedDAT, seed 0 on mini/domain."]
    # The only run's own table says it.
    assert left_out([unscored("feddat", shared=False)]) == []


def test_a_conclusion_counts_the_other_runs() -> None:
    assert conclusion([unscored("feddat"), summary("feddat", 1)])[0].startswith("FedDAT scores 69.0 % on average")
    several = [unscored("feddat"), summary("fedavg"), unscored("local"), unscored("fedavg", 1), summary("local", 1)]
    assert conclusion(several), "no method is compared in the same seed, but there are scores"
    among = [unscored("head"), *(summary(method, seed) for method in ("fedavg", "local") for seed in (0, 1, 2))]
    assert conclusion(among)[0].startswith("FedAvg is ahead of Local only by 3.0 points")
    assert conclusion([unscored("feddat"), unscored("fedavg")]) == []


def test_routes_come_from_the_runs_that_have_scores() -> None:
    table = tables.route_table([unscored("feddat"), summary("feddat", 1)])
    assert table is not None and len(table.columns) == 3


def test_a_run_is_still_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    remove_scores(folder)
    for text in (write_report(folder).read_text(), markdown(folder)):
        assert f"{SAID}FedDAT, seed 0 on mini/domain." in text


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lacking", ["fedavg-s0", "feddat-s0", "*-s0", "fedavg-*", "*"])
def test_a_comparison_and_a_suite_are_still_shown(tmp_path: Path, lacking: str, shared: bool) -> None:
    folder = make_comparison(tmp_path / "a", ("feddat", "fedavg"), 2)
    for run in folder.glob(f"{lacking}/summary.json"):
        remove_scores(run.parent, shared)
    (tmp_path / "suite.json").write_text(json.dumps({"suite": "s", "folders": {"x": "a"}}))
    for text in (write_report(folder).read_text(), markdown(folder), write_suite(tmp_path).read_text()):
        assert SAID in text
    assert SAID in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("every", [False, True])
def test_a_record_is_still_shown(tmp_path: Path, every: bool) -> None:
    found = [summary(method, seed) for method in ("feddat", "fedavg") for seed in (0, 1)]
    found[0] = unscored("feddat")
    found += [unscored("fedavg", 10_000) | {"split": "validation"}]
    if every:
        found = [run | {"clients": {}, "mean": None} for run in found]
    lines = [{"run": str(n), "settings": {}, "summary": s, "curve": []} for n, s in enumerate(found)]
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = record.read_record(file)
    text = record.write_record(runs, tmp_path / "r")[0].read_text()
    assert SAID in text
    assert text.endswith("| FedAvg | – |\n"), "the search"
    if every:
        with pytest.raises(DataError, match=r"r\.jsonl: no client has a score in any of its runs"):
            by_setting.studies(runs, "rounds", 5)
    else:
        assert f"{SAID}FedDAT, seed 0 on mini/domain." in by_setting.markdown(by_setting.studies(runs, "rounds", 5))


def test_newcomers_are_still_shown(tmp_path: Path) -> None:
    runs = [summary("feddat"), unscored("fedavg")]
    (tmp_path / "newcomers.json").write_text(json.dumps({"benchmark": "mini/domain", "epochs": 1, "runs": runs}))
    assert f"{SAID}FedAvg, seed 0 on mini/domain." in write_newcomers(tmp_path).read_text()
