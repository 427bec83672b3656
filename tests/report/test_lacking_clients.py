"""Runs without a client's score have no mean beside runs with it: without a hard client, they would look better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import CLIENTS, make_comparison, make_run, summary

from feddat.example import DataError
from feddat.report import by_setting, plots, record, study, tables
from feddat.report.conclusion import conclusion
from feddat.report.newcomers import write_newcomers
from feddat.report.page import write_report

#: The client with the lowest score, with any method: the mean of the others is higher by half a point.
HARD = CLIENTS[0]


def lacking(made: dict[str, Any], client: str = HARD) -> dict[str, Any]:
    """Return a summary without a client's score, as a run writes it."""
    clients = {name: scores for name, scores in made["clients"].items() if name != client}
    mean = sum(next(iter(scores.values())) for scores in clients.values()) / len(clients)
    return made | {"clients": clients, "mean": mean, "missing": [client]}


def write(path: Path, runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> record.Record:
    """Write a record of (settings, summary) and read it."""
    lines = [{"run": str(n), "settings": own, "summary": s, "curve": []} for n, (own, s) in enumerate(runs)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return record.read_record(path)


def mean_row(table: tables.Table) -> list[str]:
    return [str(cell) for cell in dict(table.rows)[tables.MEAN]]


def test_tables_of_clients() -> None:
    runs = [summary("feddat"), lacking(summary("feddat", 1)), lacking(summary("fedavg"))]
    table = tables.score_table(runs)
    assert mean_row(table) == ["68.0", "–"]
    assert [str(cell) for cell in dict(table.rows)["photo"]] == ["67.5 ± 0.7", "59.0"]
    routes = tables.route_table(runs[:2])
    assert routes is not None and mean_row(routes) == ["68.0", "65.0", "62.0"]
    # The client that no run has is lacked by none.
    assert mean_row(tables.score_table([lacking(summary("feddat")), lacking(summary("fedavg"))])) == ["68.5", "60.5"]


def test_conclusions() -> None:
    alone = conclusion([lacking(summary("fedavg", 2)), summary("fedavg", 0)])
    assert alone == ["FedAvg scores 60.0 % on average over 5 clients, from 58.0 % (art) to 62.0 % (scene)."]
    assert conclusion([lacking(summary("fedavg")), lacking(summary("fedavg", 1), "photo")]) == []
    # Without FedDAT, the best is compared with the others: on the means of complete runs, FedAvg (60).
    runs = [summary("fedavg"), summary("fedavg", 1), summary("local"), lacking(summary("local", 1, 20.0))]
    assert conclusion(runs)[0].startswith("FedAvg is ahead of Local only by 3.0 points")


def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    real_bars, real_curves = plots.bars, plots.learning_curves

    def bars(values: Any, *more: Any) -> str:
        drawn["bars"] = dict(values)
        return real_bars(values, *more)

    def curves(panel: Any, limits: Any, title: str) -> str:
        drawn[title] = panel
        return real_curves(panel, limits, title)

    monkeypatch.setattr(plots, "bars", bars)
    monkeypatch.setattr(plots, "learning_curves", curves)
    folder = make_comparison(tmp_path / "c", ("fedavg", "local"), 2)
    for run in ("fedavg-s1", "local-s0", "local-s1"):
        made = json.loads((folder / run / "summary.json").read_text())
        better = summary(made["method"], made["seed"], 20.0)
        (folder / run / "summary.json").write_text(json.dumps(lacking(better)))
        lines = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
        # The hard client is gone from round 6 on.
        kept = [line for line in lines if line["client"] != HARD or line["round"] < 6]
        (folder / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    text = write_report(folder).read_text()
    assert "<span>Best mean score</span><b>60.0 %</b><span>FedAvg</span>" in text
    assert drawn["bars"] == {"FedAvg": (60.0,)}
    means = drawn["Learning curves: Mean"]
    assert {name: sorted(curve) for name, curve in means.items()} == {
        "FedAvg": list(range(1, 11)),
        "Local only": list(range(1, 6)),
    }
    assert {number: len(scores) for number, scores in means["FedAvg"].items()} == {
        number: 2 if number < 6 else 1 for number in range(1, 11)
    }
    assert "Clients without a score: FedAvg, seed 1 on mini/domain: art; " in text


def test_a_curve_has_a_mean_only_in_rounds_with_all_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(plots, "learning_curves", lambda panel, limits, title: drawn.setdefault(title, panel) and "")
    folder = make_run(tmp_path / "run", "fedavg")
    (folder / "summary.json").write_text(json.dumps(lacking(summary("fedavg"))))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # In round 3, the client without a final score stands in for another; four of them are not the same four.
    kept = [line for line in lines if (line["client"], line["round"]) != ("photo", 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    write_report(folder)
    assert sorted(drawn["Learning curves: Mean"]["Score"]) == [1, 2, *range(4, 11)]


def test_a_record_against_a_setting(tmp_path: Path) -> None:
    runs = [({"train": {"epochs": n}}, summary("fedavg", seed)) for n in (1, 2) for seed in (0, 1)]
    runs[3] = (runs[3][0], lacking(runs[3][1]))
    found = by_setting.studies(write(tmp_path / "r.jsonl", runs), "train.epochs", 1)
    said = "Left out, since they lack the score of a client that others have: FedAvg, seed 1 at 2: art."
    assert by_setting.markdown(found) == (
        "### mini/domain\n\n| train.epochs | FedAvg |\n| --- | ---: |\n| 1 | 60.5 ± 0.7 |\n| 2 | 60.0 |\n\n"
        + said
        + "\n"
    )
    other = [(own, made | {"benchmark": "mini/scene"}) for own, made in runs[:3]]
    both = by_setting.studies(write(tmp_path / "both.jsonl", [*runs, *other]), "train.epochs", 1)
    assert [(r["point"], r["seed"]) for r in both["All federations"]["records"]] == [("1", 0), ("1", 1), ("2", 0)]
    none = [(own, lacking(made, client)) for (own, made), client in zip(runs[:2], CLIENTS, strict=False)]
    with pytest.raises(DataError, match=r"n\.jsonl: no run has scores of all clients that other runs have"):
        by_setting.studies(write(tmp_path / "n.jsonl", none), "train.epochs", 1)
    # A federation without such a run is left out of the tables, and named.
    some = by_setting.studies(write(tmp_path / "s.jsonl", [*none, *other]), "train.epochs", 1)
    assert list(some) == ["mini/scene"]
    assert some["mini/scene"]["notes"][0].endswith("FedAvg, seed 0 at 1: art; FedAvg, seed 1 at 1: photo.")


def test_points_with_other_clients_are_no_lack(tmp_path: Path) -> None:
    one = summary("fedavg") | {"clients": {"a-1": {"score": 50.0}}}
    two = summary("fedavg") | {"clients": {"a-1": {"score": 40.0}, "a-2": {"score": 50.0}}}
    runs = write(tmp_path / "r.jsonl", [({"split_clients": 1}, one), ({"split_clients": 2}, two)])
    (found,) = by_setting.studies(runs, "split_clients", 1).values()
    assert ([r["score"] for r in found["records"]], found["notes"]) == ([50.0, 45.0], [])


def entry(method: str, point: str, seed: int, **clients: float) -> dict[str, Any]:
    score = sum(clients.values()) / len(clients)
    common = {"method": method, "route": "score", "seed": seed, "point": point, "x": None, "score": score}
    return common | {"clients": clients}


def test_studies(tmp_path: Path) -> None:
    keys = {"study": "x", "axis": "x", "rows": "x", "curve": False, "by_route": False, "split": "test"}
    whole = [entry("fedavg", "a", 0, ann=80.0, bob=20.0), entry("fedavg", "b", 0, ann=82.0, bob=20.0)]
    old = {key: value for key, value in entry("fedavg", "b", 1, ann=90.0, bob=30.0).items() if key != "clients"}
    records = [*whole, old, entry("local", "b", 0, ann=70.0)]
    (tmp_path / "study.json").write_text(json.dumps(keys | {"records": records}))
    study.write_study(tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert "| a | 50.0 |\n| b | 55.5 ± 6.4 |\n" in text
    assert text.endswith("a client that others have: Local only, seed 0 at b: bob.\n")
    assert study.whole_runs(study.read_study(tmp_path)) == study.read_study(tmp_path), "said once"
    # In a curve, all rounds of a run are named together.
    rounds = [entry("fedavg", str(n), 0, ann=80.0, bob=20.0) for n in (1, 2)]
    rounds += [entry("local", str(n), 0, ann=70.0) for n in (1, 2)]
    curve = study.whole_runs(keys | {"curve": True, "records": rounds})
    assert (len(curve["records"]), curve["notes"][0].rpartition(": Local")[2]) == (2, " only, seed 0: bob.")
    # Clients of one example's owner, split among several, are the study's subject.
    split = [entry("fedavg", "1", 0, ann=80.0), entry("fedavg", "2", 0, ann=80.0, bob=20.0)]
    assert study.whole_runs(keys | {"study": "clients", "records": split})["records"] == split
    for wrong, reason in (
        ([entry("fedavg", "a", 0, ann=1.0), entry("fedavg", "a", 1, bob=1.0)], "no run has scores of all clients"),
        ([whole[0] | {"clients": ["ann"]}], r"clients: expected scores by client"),
    ):
        (tmp_path / "study.json").write_text(json.dumps(keys | {"records": wrong}))
        with pytest.raises(DataError, match=rf"study\.json: records.*: {reason}"):
            study.read_study(tmp_path)


def test_searches(tmp_path: Path) -> None:
    made = [({"train": {"lr": lr}}, summary("fedavg") | {"split": "validation"}) for lr in (0.1, 0.2)]
    made[1] = (made[1][0], lacking(made[1][1]))
    text = record.search_markdown(write(tmp_path / "r.jsonl", made))
    assert "| FedAvg | 60.0 | – |" in text
    assert text.endswith("a client that others have: FedAvg, train.lr=0.2: art.\n")


def test_newcomers(tmp_path: Path) -> None:
    runs = [summary("fedavg"), lacking(summary("local"))]
    (tmp_path / "newcomers.json").write_text(json.dumps({"benchmark": "mini/domain", "epochs": 1, "runs": runs}))
    text = write_newcomers(tmp_path).read_text()
    assert "Clients without a score: Local only, seed 0 on mini/domain: art." in text


def test_a_record_says_what_its_runs_lack(tmp_path: Path) -> None:
    runs = write(tmp_path / "r.jsonl", [({}, summary("fedavg")), ({}, lacking(summary("local")))])
    assert "Clients without a score: Local only, seed 0 on mini/domain: art." in record.record_markdown(runs)
