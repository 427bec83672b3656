"""Private runs: what clients report, how much budget is spent, and the same numbers in every runtime."""

import json

import pytest
from clouds import alike, open_cloud

from feddat.cli import main
from feddat.config import ConfigError
from feddat.deploy.launch import run_in
from feddat.experiment import Experiment, ExperimentError
from feddat.experiment.grids.comparison import compare
from feddat.experiment.grids.tuning import Search
from two_clients import numbers

PRIVATE = {
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "privacy.noise_seed": 3,
    "share_metrics": "none",
    "threads": 1,
}
#: Privacy of whole clients; the server adds the noise.
CLIENT = {"privacy.unit": "client", "privacy.clip": 0.05}
units = pytest.mark.parametrize("unit", [{}, CLIENT], ids=["record", "client"])
SHARED = {"privacy.scope": "shared", "algorithm.heads": "separate", "algorithm.alpha": 0.0}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("feddat", {}),
        ("feddat", SHARED | {"wire.format": "int8", "wire.delta": True}),
        ("fedavg", {}),
        ("local", {}),
        ("head", {}),
    ],
)
def test_a_private_run_shares_no_number_and_has_scores_where_all_data_is(make_config, method, settings):
    events = []
    config = make_config(method=method, **PRIVATE | settings)
    summary = Experiment(config).run(events.append)
    assert summary["privacy"]["epsilon"] == 8.0
    assert set(summary["clients"]) == {"ann", "bob"} and summary["mean"] is not None
    told = [event for event in events if event["event"] in ("fit", "eval")]
    assert len(told) == 2 * (2 + 3)
    assert not [event for event in told if event.get("scores") or event.get("metrics") or event.get("examples")]
    for client in ("ann", "bob"):
        ledger = json.loads((config.run_dir / "clients" / client / "privacy.json").read_text())
        (steps,) = ledger["steps"]
        # 2 rounds of 2 steps; each step takes 5 of 10 records.
        assert (steps["count"], steps["rate"], ledger["epsilon"]) == (4, 0.5, 8.0)
        assert steps["releases"] == (2 if (method, settings) == ("feddat", {}) else 1)
    again = make_config(method=method, name="again", **PRIVATE | settings)
    Experiment(again).run()
    assert numbers(again.run_dir) == numbers(config.run_dir)


def test_a_run_stops_before_its_budget_is_gone_and_says_so(make_config):
    config = make_config(method="fedavg", rounds=9, **PRIVATE | {"privacy.noise_multiplier": 1.0})
    with pytest.raises(ExperimentError, match=r"client ann: privacy: training stops: \d+ steps are done, and 2 more"):
        Experiment(config).run()
    ledger = json.loads((config.run_dir / "clients" / "ann" / "privacy.json").read_text())
    assert 0 < ledger["steps"][0]["count"] < 18


def test_what_has_no_argument_is_refused_before_the_folder_is_touched(make_config):
    config = make_config(method="scaffold", **PRIVATE)
    with pytest.raises(ConfigError, match="privacy: scaffold: its control variates"):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()


def test_a_search_over_private_runs_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"privacy: a search over train\.lr trains on the same records again"):
        Search.parse("train.lr=1e-3,1e-2").runs(make_config(**PRIVATE), ["fedavg"])


@pytest.mark.slow  # a SuperLink and two nodes
@units
def test_the_same_numbers_in_a_deployment(make_config, tmp_path, unit):
    config = make_config(**PRIVATE | unit)
    Experiment(config.updated({"name": "here"})).run()
    with open_cloud(tmp_path / "cloud") as cloud:
        for name in ("ann", "bob"):
            cloud.node(name, client=name)
        there = config.updated({"name": "there"})
        run = cloud.start_run(there)
        assert cloud.wait(lambda: cloud.control.failure(run) is not None)
        assert cloud.control.failure(run) == ""
    ours, theirs = (alike(config.runs_dir / name) for name in ("here", "there"))
    for found in (ours, theirs):  # only a process that has all data adds scores to its summary
        for key in ("clients", "mean", "missing"):
            found["summary"].pop(key, None)
    assert theirs == ours


@pytest.mark.slow  # Ray takes half a minute to start
@units
def test_the_same_numbers_in_a_simulation(make_config, unit):
    pytest.importorskip("ray")
    config = make_config(name="here", **PRIVATE | unit)
    Experiment(config).run()
    there = config.updated({"name": "there", "runtime.kind": "simulation", "runtime.actors": 2})
    run_in(Experiment(there), lambda event: None)
    ours, theirs = (numbers(config.runs_dir / name) for name in ("here", "there"))
    for part in ("states", "metrics", "predictions"):
        assert theirs[part] == ours[part]


@units
def test_the_same_numbers_in_worker_processes(make_config, unit):
    config = make_config(name="here", rounds=1, **PRIVATE | unit)
    Experiment(config).run()
    there = config.updated({"name": "there"})
    Experiment(there).run(jobs=2)
    assert numbers(config.runs_dir / "there") == numbers(config.runs_dir / "here")


def test_a_study_of_epsilon_shares_no_scores_and_shows_them_all(make_config, tmp_path, capsys, no_workers):
    """Through the command, whose display has no scores to show between the rounds."""
    config = make_config(name="eps", **{**PRIVATE, "rounds": 2, "eval.every": 1, "privacy.epsilon": None})
    config = config.updated({"share_metrics": "scores"})
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    asked = ["study", "epsilon=8,null", "-c", str(tmp_path / "c.yaml"), "-m", "fedavg,feddat-one-way", "--seeds", "1"]
    with pytest.raises(SystemExit) as end:
        main([*asked, "--jobs", "1"])
    assert end.value.code == 0, capsys.readouterr().err
    study = json.loads((config.run_dir / "study.json").read_text())
    assert {(r["method"], r["point"]) for r in study["records"]} == {
        (method, point) for method in ("fedavg", "feddat-one-way") for point in ("8", "none")
    }
    private = json.loads((config.run_dir / "8" / "feddat-one-way-s0" / "summary.json").read_text())
    assert private["privacy"]["scope"] == "shared" and private["not_shared"] == ["ann", "bob"]


def test_private_runs_can_be_compared(make_config, no_workers):
    found = compare(make_config(name=None, rounds=1, **PRIVATE), ["fedavg", "local"], [0], jobs=1)
    assert {summary["method"] for summary in found["runs"]} == {"fedavg", "local"}
    assert all(summary["mean"] is not None and summary["privacy"]["epsilon"] == 8.0 for summary in found["runs"])
