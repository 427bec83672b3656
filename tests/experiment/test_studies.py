"""Studies: which runs belong to a study, what it reads from them, and how it goes on after a failure."""

import json
import multiprocessing
import os
import signal

import pytest

from feddat.config import ConfigError
from feddat.experiment import STUDIES, Experiment, Study, all_runs, run_study
from feddat.experiment.grids.studies import with_steps


def test_a_study_is_read_from_one_word():
    assert Study.parse("examples") is STUDIES["examples"]
    assert Study.parse("examples=5,10").values == (5, 10)
    assert Study.parse("examples=5,10").keys == ("train_examples",)
    generic = Study.parse("train.lr=1e-3,0.01")
    assert (generic.name, generic.keys, generic.values) == ("train.lr", ("train.lr",), (0.001, 0.01))
    # The study ``rounds`` takes no values: with values, the word is the setting ``rounds``.
    assert Study.parse("rounds=2,4").keys == ("rounds",)
    with pytest.raises(ConfigError, match=r"study 'exampels': expected one of examples, .* or KEY=V1,V2"):
        Study.parse("exampels")


def test_each_point_is_a_comparison_in_a_folder_of_its_own(make_config):
    config = make_config(name="s")
    plans = STUDIES["distillation"].plans(config, ["feddat"], [0, 1])
    assert list(plans) == ["0.0", "0.1", "0.25", "0.5", "0.75", "0.9"]
    runs = all_runs(plans)
    assert list(runs)[::6] == ["0.0/feddat-s0", "0.0/feddat-s1"]  # all points under one seed, then under the next
    run = runs["0.25/feddat-s1"]
    assert run.algorithm.alpha == run.algorithm.beta == 0.25
    assert run.run_dir.parts[-4:] == ("runs", "s", "0.25", "feddat-s1")
    with pytest.raises(ConfigError, match=r"train\.speed"):
        Study.parse("train.speed=1").plans(config, ["feddat"], [0])
    with pytest.raises(ConfigError, match="'fedavgg' is unknown"):
        all_runs(STUDIES["width"].plans(config, ["fedavgg"], [0]))


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_fits_the_configuration(name, make_config):
    study = STUDIES[name]
    config = make_config(clients=None, benchmark="mini/domain")  # clients with any number of examples
    assert all_runs(study.plans(config, study.methods, [0]))


def test_each_method_keeps_its_own_value_unless_that_is_what_is_studied(make_config):
    tuning = {"keys": ["train.lr"], "best": {"feddat": {"train.lr": 0.5}, "local": {"train.lr": 0.25}}}
    runs = all_runs(Study.parse("examples=2,4").plans(make_config(), ["feddat", "local"], [0], tuning))
    assert {name: run.train.lr for name, run in runs.items()} == {
        "2/feddat-s0": 0.5,
        "2/local-s0": 0.25,
        "4/feddat-s0": 0.5,
        "4/local-s0": 0.25,
    }
    with pytest.raises(ConfigError, match=r"varies train\.lr, so a search"):
        Study.parse("train.lr=1,2").plans(make_config(), ["feddat"], [0], tuning)


def test_equal_steps_are_the_same_in_every_round_of_every_point(make_config):
    config = make_config(rounds=4)
    assert with_steps(config, 12).train.steps == 3
    assert with_steps(config.updated({"server.fraction": 0.5}), 12).train.steps == 6
    assert with_steps(config, 1).train.steps == 1
    plans = Study.parse("examples=5,10").plans(config, ["feddat"], [0], equal_steps=8)
    assert [(plan.config.rounds, plan.config.train.steps) for plan in plans.values()] == [(4, 2), (4, 2)]
    for text in ("steps", "rounds=2,4"):
        with pytest.raises(ConfigError, match="--equal-steps would undo"):
            Study.parse(text).plans(config, ["feddat"], [0], equal_steps=8)


def test_a_study_over_rounds_reads_the_curves_of_finished_runs(make_config, monkeypatch):
    config = make_config(name="s", rounds=2, eval__every=1)
    study = STUDIES["routes"]
    plans = study.plans(config, ["feddat", "local"], [0])
    done = {name: Experiment(run).run() for name, run in all_runs(plans).items()}
    monkeypatch.setattr("feddat.experiment.grids.comparison.run_all", lambda *arguments: (done, {}))
    result = run_study(study, plans)
    assert result["curve"]
    points = {(r["method"], r["route"], r["point"]) for r in result["records"]}
    assert points == {("feddat", route, n) for route in ("dat", "local", "global") for n in "12"} | {
        ("local", "score", n) for n in "12"
    }
    assert {r["point"]: (r["x"], r["rounds"], r["steps"]) for r in result["records"]} == {
        "1": (1, 1, 2),
        "2": (2, 2, 4),
    }
    final = json.loads((config.runs_dir / "s" / "local-s0" / "summary.json").read_text())["mean"]
    assert final in [r["score"] for r in result["records"] if (r["method"], r["point"]) == ("local", "2")]


@pytest.mark.slow
def test_a_killed_worker_leaves_a_study_that_can_go_on(make_config):
    config = make_config(name="s", rounds=3)
    study = Study.parse("clients=1,2")
    plans = study.plans(config, ["feddat"], [0])

    def kill(event):
        # When round 2 is reported, round 1 is on disk.
        if event["run"].startswith("2/") and event["event"] == "round" and event["round"] == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    broken = run_study(study, plans, jobs=1, progress=kill)
    assert list(broken["failed"]) == ["2/feddat-s0"]
    assert "its process was killed (SIGKILL)" in broken["failed"]["2/feddat-s0"]
    assert [r["point"] for r in broken["records"]] == ["1"]

    begun = []
    result = run_study(study, plans, jobs=1, progress=lambda e: begun.append(e) if e["event"] == "start" else None)
    assert [(event["run"], event["round"] > 0) for event in begun] == [("2/feddat-s0", True)]
    assert result["failed"] == {}
    folder = config.runs_dir / "s"
    assert json.loads((folder / "study.json").read_text()) == result
    assert {path.suffix for path in folder.glob("study.*")} == {".json", ".md", ".csv", ".png", ".svg"}
    one, two = result["records"]
    assert (one["point"], one["x"], one["steps"], one["route"]) == ("1", 1, 6, "dat")
    assert (two["point"], two["x"], two["steps"]) == ("2", 2, 3)
    assert set(one["clients"]) == {"ann", "bob"}
    assert set(two["clients"]) == {"ann-1", "ann-2", "bob-1", "bob-2"}
    assert two["score"] == json.loads((folder / "2" / "feddat-s0" / "summary.json").read_text())["mean"]
    assert (folder / "2" / "report.html").is_file()
