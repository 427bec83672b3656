"""Grids with runs in which no client has a score, and with private clients, which send none during a run."""

import json

import pytest

from feddat.config import ConfigError
from feddat.experiment import (
    STUDIES,
    Experiment,
    ExperimentError,
    Newcomers,
    Search,
    Study,
    all_runs,
    compare,
    run_newcomers,
    run_study,
)
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.grids.tuning import search_each
from feddat.experiment.single.rounds import Service
from two_clients import files

REASON = r"no client has a score; missing and not_shared in its summary\.json name them"


@pytest.fixture
def broken(monkeypatch, no_workers):
    """Let every run of local training end without a score."""
    summary = Service._summary

    def without(self, *arguments):
        found = summary(self, *arguments)
        lost = {"clients": {}, "mean": None, "missing": list(found["clients"])}
        return found | lost if self.config.method == "local" else found

    monkeypatch.setattr(Service, "_summary", without)


def test_a_comparison_goes_on_without_them(make_config, broken, tmp_path):
    config, events = make_config(name="c", rounds=1), []
    comparison = compare(config, ["local", "fedavg"], [0], progress=events.append)
    assert [run["method"] for run in comparison["runs"]] == ["fedavg"]
    assert list(comparison["failed"]) == ["local-s0"] and comparison["methods"]["local"]["mean"] is None
    assert [e["reason"] for e in events if e["event"] == "failure"] == list(comparison["failed"].values())
    assert "No client has a score in Local only, seed 0." in (config.runs_dir / "c" / "report.html").read_text()
    with pytest.raises(ExperimentError, match=f"comparison .*c: no run succeeded; local-s0: {REASON}"):
        compare(config, ["local"], [0])


def test_a_record_does_not_keep_them(make_config, broken, monkeypatch, tmp_path):
    record = RunRecord(tmp_path / "r.jsonl")
    # The measurement of training scores, which a record takes, works.
    monkeypatch.setattr("feddat.experiment.single.run.Experiment.evaluate", lambda *_: {"ann": {"score": 1.0}})
    compare(make_config(name="c", rounds=1), ["local", "fedavg"], [0], record=record)
    assert [json.loads(line)["summary"]["method"] for line in record.path.read_text().splitlines()] == ["fedavg"]


def test_a_study_goes_on_without_them(make_config, broken):
    study = Study.parse("train.lr=0.1,0.2")
    result = run_study(study, study.plans(make_config(name="s", rounds=1), ["local", "fedavg"], [0]))
    assert [(r["method"], r["point"]) for r in result["records"]] == [("fedavg", "0.1"), ("fedavg", "0.2")]
    assert list(result["failed"]) == ["0.1/local-s0", "0.2/local-s0"]
    with pytest.raises(ExperimentError, match=f"no run succeeded; 0.1/local-s0: {REASON}"):
        run_study(study, study.plans(make_config(name="s", rounds=1), ["local"], [0]))


def test_a_search_does_not_choose_them(make_config, broken):
    with pytest.raises(ExperimentError, match=r"search over train\.lr: no run of local succeeded"):
        search_each({"": make_config(name="c", rounds=1)}, ["local"], Search({"train.lr": (0.1, 0.2)}))


def test_newcomers_go_on_without_them(make_config, broken, world):
    own = files(world)
    config = make_config(name="late", rounds=1, clients=own | {"cid": own["bob"]})
    plan = Newcomers.plan(config, ["local", "fedavg"], [0], epochs=1, clients=["ann"])
    result = run_newcomers(plan)
    assert [run["method"] for run in result["runs"]] == ["fedavg"]
    assert list(result["failed"]) == ["ann/local-s0"]


def test_learning_curves_of_private_clients_are_refused(make_config):
    config = make_config(privacy__epsilon=3.0)
    for name in ("rounds", "routes"):
        with pytest.raises(ConfigError, match=f"study {name}: with privacy, clients send no scores during a run"):
            Study.parse(name).plans(config, ["fedavg"], [0])


def test_learning_curves_without_metrics_are_an_error(make_config, monkeypatch):
    """Runs from a record have no metrics on this machine."""
    study, config = STUDIES["rounds"], make_config(name="s", rounds=1)
    plans = study.plans(config, ["local"], [0])
    done = {name: Experiment(run).run() for name, run in all_runs(plans).items()}
    (config.runs_dir / "s" / "local-s0" / "metrics.jsonl").unlink()
    monkeypatch.setattr("feddat.experiment.grids.comparison.run_all", lambda *arguments: (done, {}))
    with pytest.raises(ExperimentError, match="no run has scores of all its clients by round on this machine"):
        run_study(study, plans)
