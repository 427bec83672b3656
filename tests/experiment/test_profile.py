"""Profiles: each phase's own seconds, traces of a few steps, and the same numbers as without a profile."""

import json

import pytest

from feddat import phases
from feddat.cli import main
from feddat.experiment import Experiment
from feddat.experiment.single import profile
from feddat.experiment.single.profile import STEPS, Profile
from two_clients import numbers


@pytest.fixture
def clock(monkeypatch):
    """Replace the profile's clock; return a function that moves it."""
    now = [0.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_phase_takes_its_own_time_without_that_of_phases_in_it(clock):
    @phases.phase("inputs")
    def read():
        clock(2)

    @phases.phase("evaluation")
    def evaluate():
        clock(3)
        read()
        forward()

    @phases.phase("forward")
    def forward():
        clock(4)
        backward()
        clock(5)

    @phases.phase("backward")
    def backward():
        clock(7)
        raise_if_asked()

    def raise_if_asked():
        if broken:
            raise ZeroDivisionError

    broken = False
    with Profile() as watched:
        clock(1)
        forward()
        evaluate()
        broken = True
        with pytest.raises(ZeroDivisionError):
            forward()
    read()  # no profile listens any more
    taken = {row["phase"]: (row["calls"], row["seconds"]) for row in watched.phases() if row["phase"] != "profiler"}
    own = {"forward": (3, 9 + 9 + 4), "backward": (3, 21), "inputs": (1, 2), "evaluation": (1, 3), "other": (None, 1)}
    assert taken == own
    assert sum(row["share"] for row in watched.phases() if row["share"] is not None) == pytest.approx(1)


def test_one_listens_at_a_time():
    with Profile(), pytest.raises(RuntimeError, match="a listener already"), Profile():
        pass
    with Profile():
        pass


def test_a_profiled_run_has_the_same_numbers_and_traces_of_a_few_steps(make_config, tmp_path):
    settings = {"rounds": 2, "train__epochs": 3}
    Experiment(make_config(name="plain", **settings)).run()
    with Profile() as watched:
        Experiment(make_config(name="watched", **settings)).run()
    assert numbers(tmp_path / "runs" / "watched") == numbers(tmp_path / "runs" / "plain")

    files = {path.name: path for path in watched.write(tmp_path / "profile")}
    assert list(files) == ["profile.json", "trace-training.json", "trace-evaluation.json"]
    assert marks(files["trace-evaluation.json"])["evaluation"] == 1

    seen = marks(files["trace-training.json"])
    assert seen["forward"] == STEPS
    assert seen["backward"] == seen["update"] == 2 * STEPS  # one for each of the two adapters
    tables = json.loads(files["profile.json"].read_text())
    found = {row["phase"]: row for row in tables["phases"]}
    assert found.keys() >= set("loading inputs forward backward update evaluation messages checkpoints other".split())
    assert found["forward"]["calls"] == 2 * 2 * 3 * 2  # clients, batches, epochs, rounds
    assert found["evaluation"]["calls"] == 2 * (2 + 1)  # every round, and the final split
    operators = tables["operators"]["training"]
    assert "aten::addmm" in {row["name"] for row in operators}
    assert [row["seconds"] for row in operators] == sorted((row["seconds"] for row in operators), reverse=True)


def marks(path):
    """Return how often each phase is marked in a trace."""
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["name"].removeprefix("feddat: ") for event in events if event.get("cat") == "user_annotation"]
    return {name: names.count(name) for name in names}


def test_the_command_prints_and_writes_it(make_config, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(make_config(rounds=2).to_yaml())
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--config", str(config), "--profile"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "backward" in said
    assert "operator, training" in said
    assert (tmp_path / "runs" / "run" / "profile" / "trace-training.json").is_file()


def test_only_this_process_can_be_watched(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "runtime=simulation", "--profile"])
    assert stopped.value.code == 2
    assert "--profile measures only this process, but runtime is simulation" in capsys.readouterr().err
