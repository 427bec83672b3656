"""Records of runs: a run with a line is not computed again, and lines contain what runs measured."""

import json
import subprocess
import sys
import threading

import pytest

from feddat.cli import main
from feddat.config import ConfigError, RunConfig
from feddat.example import DataError
from feddat.experiment import Experiment, ExperimentError, Study, compare, run_study
from feddat.experiment.grids.record import RunRecord, curve_of
from feddat.experiment.single.folder import RunFolder
from feddat.report.record import read_lines
from helpers import full_disk


def test_what_is_in_the_record_is_not_computed_again(make_config, tmp_path, no_workers):
    config, file = make_config(name="c", rounds=1, eval__every=1), tmp_path / "docs" / "record.jsonl"
    first = compare(config, ["feddat", "local"], [0], jobs=1, record=RunRecord(file))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["summary"]["method"] for line in lines] == ["feddat", "local"]
    assert lines[0]["settings"]["train"] == {"batch_size": 5, "lr": 0.01}
    assert set(lines[0]["summary"]["training_scores"]) == {"dat", "local", "global"}

    # As on another machine, which has the record but no run folders.
    events = []
    elsewhere = config.updated({"runs_dir": tmp_path / "elsewhere"})
    second = compare(elsewhere, ["feddat", "local"], [0], 1, events.append, record=RunRecord(file))
    assert events == []
    assert not list((tmp_path / "elsewhere").rglob("config.yaml"))
    for one, other in zip(first["runs"], second["runs"], strict=True):
        assert other["mean"] == pytest.approx(one["mean"], abs=1e-4)
    # Another setting means another run; further record files are only read.
    before, new = file.read_bytes(), tmp_path / "new.jsonl"
    changed = elsewhere.updated({"train.lr": 0.02})
    third = compare(changed, ["local"], [0], 1, events.append, record=RunRecord(new, [file]))
    assert third["runs"][0]["method"] == "local"
    assert [event["event"] for event in events if event["event"] == "done"] == ["done"]
    assert file.read_bytes() == before
    assert [json.loads(line)["settings"]["train"]["lr"] for line in new.read_text().splitlines()] == [0.02]


def test_a_torn_or_foreign_line_is_named(tmp_path):
    file = tmp_path / "record.jsonl"
    add_run(file, 1)
    with file.open("a") as more:
        more.write('{"run": "2", "sett')
    with pytest.raises(DataError, match=r"record\.jsonl, line 2: not a line of a record of runs"):
        RunRecord(file)


def add_run(file, n, release=None):
    record, config = RunRecord(file), RunConfig(method="local", seed=n)
    if release is not None:
        release.wait()
    summary = {"method": "local", "seed": n, "rounds": 1, "clients": {"ann": {"score": 1.0}}, "mean": 1.0}
    record.add(config, summary, RunFolder(file.parent / f"run-{n}"))


def test_grids_that_share_a_record_wait_for_each_other(tmp_path):
    file = tmp_path / "record.jsonl"
    others = "from feddat.files import locked; from pathlib import Path; import time\n"
    others += f"with locked(Path({str(tmp_path)!r})): print(1, flush=True); time.sleep(0.5)"
    with subprocess.Popen([sys.executable, "-c", others], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        add_run(file, 1)
        assert process.poll() is not None or process.wait(5) == 0
    release = threading.Event()
    threads = [threading.Thread(target=add_run, args=(file, n, release)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(line["summary"]["seed"] for line in read_lines(file)) == list(range(1, 10))


def test_a_full_disk_leaves_no_half_run_in_a_record(tmp_path):
    file = tmp_path / "record.jsonl"
    add_run(file, 1)
    before = file.read_bytes()
    with full_disk(len(before) + 20), pytest.raises(ExperimentError, match=r"record\.jsonl: File too large"):
        add_run(file, 2)
    assert file.read_bytes() == before
    file.write_bytes(before[:-1])  # as an editor may leave it
    add_run(file, 3)
    assert [line["summary"]["seed"] for line in read_lines(file)] == [1, 3]


def test_a_curve_has_an_entry_per_evaluated_round():
    lines = [
        {"round": 1, "client": "ann", "split": "train", "examples": 5, "metrics": {"loss": 4.0, "seconds": 9.0}},
        {"round": 1, "client": "bob", "split": "train", "examples": 5, "metrics": {"loss": 2.0, "seconds": 9.0}},
        {"round": 1, "updates": {"norm": 1.0, "agreement": 0.5}},
        {"round": 2, "client": "ann", "split": "train", "examples": 5, "metrics": {"loss": 3.0, "seconds": 9.0}},
        {"round": 2, "updates": {"norm": 2.0, "agreement": 0.1}},
        {"round": 2, "client": "ann", "split": "validation", "route": "dat", "score": 40.0},
        {"round": 2, "client": "bob", "split": "validation", "route": "dat", "score": 60.0},
        {"round": 2, "client": "ann", "failed": "no", "during": "train"},
        {"round": 3, "client": "ann", "split": "train", "examples": 5, "metrics": {"loss": 1.0, "seconds": 9.0}},
        {"round": 3, "client": "ann", "split": "test", "route": "dat", "score": 70.0},
    ]
    assert curve_of(lines) == [
        {
            "round": 2,
            "train": {"loss": 3.0},
            "updates": {"norm": 1.5, "agreement": 0.3},
            "validation": {"dat": 50.0},
        },
        {"round": 3, "train": {"loss": 1.0}, "updates": {}, "test": {"dat": 70.0}},
    ]


def test_a_study_tells_what_its_runs_measured(make_config, tmp_path, no_workers):
    config = make_config(name="s", rounds=1, eval__every=1)
    study = Study.parse("length=1,null")
    record = RunRecord(tmp_path / "record.jsonl")
    plans = study.plans(config.updated({"train_examples": 10}), ["feddat", "fedavg"], [0])
    result = run_study(study, plans, jobs=1, record=record)
    assert [(entry["method"], entry["point"], entry["x"], entry["steps"]) for entry in result["records"]] == [
        ("feddat", "1", 1, 1.0),
        ("fedavg", "1", 1, 1.0),
        ("feddat", "2", 2, 2.0),
        ("fedavg", "2", 2, 2.0),
    ]
    ours, theirs = (entry["measured"] for entry in result["records"][2:])
    assert ours.keys() == {
        *("norm", "agreement", "distilled"),
        *(f"{split} {route}" for split in ("train", "validation") for route in ("dat", "local", "global")),
    }
    assert 0 < ours["distilled"] < 1
    assert theirs.keys() == {"norm", "agreement", "train score", "validation score"}
    text = (config.runs_dir / "s" / "study.md").read_text()
    assert "| local steps per client | method | agreement of updates |" in text


def test_a_run_is_scored_on_any_split(make_config):
    experiment = Experiment(make_config(method="feddat", eval__every=1))
    summary = experiment.run()
    assert experiment.evaluate("test") == summary["clients"]
    assert experiment.evaluate("train").keys() == {"ann", "bob"}


def test_a_finished_run_answers_with_a_mixture(make_config, capsys):
    own = Experiment(make_config(method="feddat-mild", name="own"))
    summary = own.run()
    mixed = Experiment(make_config(method="feddat-mixed", name="mixed")).run()
    found = own.evaluate("test", answer="mixture")
    assert found == mixed["clients"], "as if the run had been made with this setting"
    assert {name: {route: scores[route] for route in ("dat", "local", "global")} for name, scores in found.items()} == (
        summary["clients"]
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(own.folder.path), "--answer", "mixture", "--json"])
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out) == found
    with pytest.raises(ConfigError, match=r"algorithm\.answer: Input should be 'dat' or 'mixture'"):
        own.evaluate("test", answer="blend")
    other = Experiment(make_config(method="fedavg", name="other", rounds=1))
    other.run()
    with pytest.raises(ConfigError, match="answer: mixture, but only method feddat has this choice, not fedavg"):
        other.evaluate("test", answer="mixture")


def test_side_by_side_scores_as_fedavg_and_local_training(make_config):
    found = {m: Experiment(make_config(method=m, name=m)).run()["clients"] for m in ("fedavg-local", "fedavg", "local")}
    for client, scores in found["fedavg-local"].items():
        assert (scores["global"], scores["local"]) == (
            found["fedavg"][client]["score"],
            found["local"][client]["score"],
        )
