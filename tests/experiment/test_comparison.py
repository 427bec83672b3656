"""Comparisons of several methods and seeds."""

import json

import pytest

from feddat.config import ConfigError
from feddat.experiment import Experiment, ExperimentError, compare, comparison_runs
from feddat.experiment.grids.comparison import over_seeds, run_all


def summary(mean, ann, bob):
    return {"mean": mean, "clients": {"ann": {"dat": ann, "local": 0.0}, "bob": {"dat": bob, "local": 0.0}}}


def test_mean_and_sample_deviation_over_seeds():
    runs = [summary(50.0, 40.0, 60.0), summary(52.0, 41.0, 63.0), summary(57.0, 45.0, 69.0)]
    found = over_seeds(runs, ["ann", "bob"])
    assert found["mean"] == 53.0
    assert found["std"] == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert found["runs"] == 3
    assert found["clients"]["ann"]["mean"] == 42.0
    assert found["clients"]["bob"]["std"] == pytest.approx(21**0.5)  # (16 + 1 + 25) / 2


def test_one_seed_has_no_deviation():
    assert over_seeds([summary(50.0, 40.0, 60.0)], ["ann", "bob"])["std"] is None


def test_a_run_without_a_client_has_no_part_in_its_methods_mean():
    easy = {"mean": 90.0, "clients": {"ann": {"dat": 90.0}}}
    found = over_seeds([easy, summary(50.0, 40.0, 60.0)], ["ann", "bob"])
    assert (found["mean"], found["runs"]) == (50.0, 1)
    assert found["clients"]["ann"]["mean"] == 65.0
    assert over_seeds([easy], ["ann", "bob"])["mean"] is None


def test_runs_are_named_after_method_and_seed(make_config):
    runs = comparison_runs(make_config(name="c"), ["feddat", "fedavg-2x"], [0, 7])
    assert list(runs) == ["feddat-s0", "fedavg-2x-s0", "feddat-s7", "fedavg-2x-s7"]
    assert runs["fedavg-2x-s7"].run_dir.parts[-3:] == ("runs", "c", "fedavg-2x-s7")
    with pytest.raises(ConfigError, match="'fedavgg' is unknown"):
        comparison_runs(make_config(), ["fedavgg"], [0])
    with pytest.raises(ExperimentError, match="at least one method and one seed"):
        comparison_runs(make_config(), ["feddat"], [])


def test_by_default_one_run_per_core_that_this_process_may_use(make_config, monkeypatch):
    asked = []

    def run_none(function, tasks, jobs, on_event):
        asked.append(jobs)
        return {}, {}

    monkeypatch.setattr("feddat.experiment.grids.comparison.run_parallel", run_none)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 3})
    runs = comparison_runs(make_config(name="c"), ["feddat", "local"], [0, 1, 2])
    run_all(runs)
    run_all(runs, 2)
    assert asked == [3, 2]


def test_a_comparison_keeps_what_is_done_and_goes_on_with_what_is_not(make_config):
    config = make_config(name="c", rounds=1)
    runs = comparison_runs(config, ["feddat", "local", "head"], [0])
    done = Experiment(runs["local-s0"]).run()
    # The third run's name is taken by a run with other settings.
    Experiment(runs["head-s0"].model_copy(update={"seed": 5})).run()

    events = []
    comparison = compare(config, ["feddat", "local", "head"], [0], jobs=1, progress=events.append)
    folder = config.runs_dir / "c"
    assert json.loads((folder / "comparison.json").read_text()) == comparison
    assert (folder / "report.html").is_file()
    assert list(comparison["failed"]) == ["head-s0"], comparison["failed"]
    assert [run["method"] for run in comparison["runs"]] == ["feddat", "local"]
    assert comparison["runs"][1] == done
    assert comparison["methods"]["local"]["mean"] == done["mean"]
    assert comparison["methods"]["head"]["mean"] is None
    assert "head-s0 belongs to other settings: seed differ" in comparison["failed"]["head-s0"]
    kinds = {run: [event["event"] for event in events if event["run"] == run] for run in runs}
    assert kinds["local-s0"] == ["done"]
    assert kinds["head-s0"] == ["failure"]
    assert kinds["feddat-s0"][0] == "start"
    with pytest.raises(ExperimentError, match=r"no run succeeded.*head-s0 belongs to other settings: seed differ"):
        compare(config, ["head"], [0], progress=events.append)
    # A worker process computes the same scores as this process.
    alone = Experiment(runs["feddat-s0"].model_copy(update={"name": "alone"})).run()
    assert alone["clients"] == comparison["runs"][0]["clients"]
