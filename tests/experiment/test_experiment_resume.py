"""A run that is stopped or killed and then resumed ends with the same numbers, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from feddat.algorithms import ALGORITHMS
from feddat.app.checkpoint import Checkpoints
from feddat.client.store import PersonalStore
from feddat.experiment import Experiment, ExperimentError
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.rounds import Service
from helpers import sent_in
from two_clients import numbers


class Stop(KeyboardInterrupt):
    """Not an Exception, so that no handler takes it for a client's failure."""


def stop_at(count):
    """Return a progress callback that stops the run at its ``count``-th event."""
    seen = []

    def progress(event):
        seen.append(event)
        if len(seen) == count:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """Return a function that gives the numbers of an undisturbed run with these settings."""
    known = {}

    def of(make_config, **values):
        key = json.dumps(values, sort_keys=True)
        if key not in known:
            config = make_config(**values | {"name": "whole", "runs_dir": tmp_path_factory.mktemp("whole")})
            Experiment(config).run()
            known[key] = numbers(config.run_dir)
        return known[key]

    return of


# Events by index: 0 start, 1-6 round 1 (fit fit updates eval eval round), 7-12 round 2, 13-20 round 3, 21 done.
@pytest.mark.parametrize("count", [2, 4, 7, 9, 13, 15, 21])
def test_stopped_at_an_event(make_config, uninterrupted, count):
    config = make_config(rounds=3)
    with pytest.raises(Stop):
        Experiment(config).run(stop_at(count))
    events = []
    Experiment(config).run(events.append, resume=True)
    assert events[0]["round"] == ((count - 2) // 6 if count < 21 else 2)
    assert numbers(config.run_dir) == uninterrupted(make_config, rounds=3)


@pytest.mark.parametrize(
    "values",
    [
        *({"method": name} for name in ALGORITHMS if name != "feddat"),
        {"algorithm.heads": "separate"},
        {"method": "fedavg-ft"},
        {"method": "fedavg-prompt"},
        {"method": "fedavg-norm"},
        {"method": "local-full"},
        {"method": "fedalt", "server.fraction": 0.5, "rounds": 3},
        {"server.fraction": 0.5, "server.weighting": "examples"},
        {"method": "fedavg", "server.rule": "fedadam"},
        {"wire.format": "int8", "wire.delta": True, "server.fraction": 0.5, "rounds": 3},
        {"method": "scaffold", "wire.format": "int8"},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_stopped_in_the_last_round_of_other_methods(make_config, uninterrupted, values):
    config = make_config(**values)
    fits = []

    def progress(event):
        fits.append(event["event"])
        if event["event"] == "eval" and event["round"] == config.rounds:
            raise Stop

    with pytest.raises(Stop):
        Experiment(config).run(progress)
    Experiment(config).run(resume=True)
    assert numbers(config.run_dir) == uninterrupted(make_config, **values)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("owner", [PersonalStore, Checkpoints])
def test_stopped_around_a_write(make_config, uninterrupted, monkeypatch, owner, when):
    config = make_config(rounds=3)
    save = owner.save
    calls = []

    def interrupted(self, *args):
        calls.append(1)
        last = len(calls) == (4 if owner is PersonalStore else 2)  # bob's state or the server's checkpoint of round 2
        if last and when == "before":
            raise Stop
        result = save(self, *args)
        if last:
            raise Stop
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, "save", interrupted)
        with pytest.raises(Stop):
            Experiment(config).run()
    Experiment(config).run(resume=True)
    assert numbers(config.run_dir) == uninterrupted(make_config, rounds=3)


@pytest.mark.parametrize("call", [5, 6])
def test_stopped_between_personal_state_and_residual(make_config, uninterrupted, monkeypatch, call):
    """With int8 a client writes two files per round: its personal state, and what rounding took from its message."""
    values = {"rounds": 2, "wire.format": "int8", "wire.delta": True}
    config = make_config(**values)
    save = PersonalStore.save
    calls = []

    def interrupted(self, *args):
        calls.append(self.label)
        if len(calls) == call:
            raise Stop
        return save(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PersonalStore, "save", interrupted)
        with pytest.raises(Stop):
            Experiment(config).run()
    assert calls == (["round", "residual"] * 4)[:call]
    Experiment(config).run(resume=True)
    assert numbers(config.run_dir) == uninterrupted(make_config, **values)


def test_stopped_after_the_last_round(make_config, uninterrupted, monkeypatch):
    config = make_config(rounds=3)

    def interrupted(*args):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Service, "_summary", interrupted)
        with pytest.raises(Stop):
            Experiment(config).run()
    events = []
    Experiment(config).run(events.append, resume=True)
    assert [event["event"] for event in events] == ["start", "done"]
    assert numbers(config.run_dir) == uninterrupted(make_config, rounds=3)


def test_a_killed_process(make_config, uninterrupted, tmp_path):
    config = make_config(rounds=3)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    script = f"""
import os, signal, torch
torch.set_num_threads(1)
from feddat.experiment import Experiment
def progress(event):
    if event["event"] == "eval" and event["round"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Experiment.load({str(tmp_path / "config.yaml")!r}).run(progress)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    before = json.loads((config.run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert before["round"] == 2
    summary = Experiment(config).run(resume=True)
    assert numbers(config.run_dir) == uninterrupted(make_config, rounds=3)
    assert summary["seconds"] > 0


def stop_after_checkpoint(config, monkeypatch, round):
    save = Checkpoints.save

    def interrupted(self, state):
        save(self, state)
        if state.round == round:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(Stop):
            Experiment(config).run()
    return config.run_dir / "checkpoints" / f"round-{round:05d}" / "adapter_model.safetensors"


def test_a_torn_line_and_a_damaged_checkpoint(make_config, uninterrupted, monkeypatch):
    config = make_config(rounds=3)
    newest = stop_after_checkpoint(config, monkeypatch, round=2)
    newest.write_bytes(newest.read_bytes()[:100])
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "cli')
    events = []
    Experiment(config).run(events.append, resume=True)
    assert events[0]["round"] == 1
    assert numbers(config.run_dir) == uninterrupted(make_config, rounds=3)


def test_when_too_much_is_damaged_nothing_is_made_up(make_config, monkeypatch):
    config = make_config(rounds=3)
    stop_after_checkpoint(config, monkeypatch, round=2).unlink()
    (config.run_dir / "checkpoints" / "round-00001" / "state.safetensors").write_bytes(b"")
    before = {path: path.read_bytes() for path in config.run_dir.rglob("*.safetensors")}
    with pytest.raises(ExperimentError, match="no checkpoint can be read"):
        Experiment(config).run(resume=True)
    assert before == {path: path.read_bytes() for path in config.run_dir.rglob("*.safetensors")}


def test_a_run_of_an_earlier_version_goes_on(make_config, uninterrupted, monkeypatch):
    """An earlier version wrote a round as one file, with the contents of both files in today's folder."""
    config = make_config(rounds=3)
    folder = stop_after_checkpoint(config, monkeypatch, round=2).parent
    with safe_open(folder / "state.safetensors", "pt") as file:
        metadata = file.metadata()
    shared = sent_in(config.run_dir, 2)
    metadata |= {"keys": json.dumps(list(shared))}
    del metadata["seal"]
    save_file(shared, folder.with_suffix(".safetensors"), metadata=metadata)
    for path in folder.parent.iterdir():
        if path.suffix != ".safetensors" or path.name.startswith("adapter"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (config.run_dir / ".seal.key").unlink()  # it had no seals either
    Experiment(config).run(resume=True)
    found, expected = numbers(config.run_dir), dict(uninterrupted(make_config, rounds=3))
    of_round_2 = [name for name in expected["states"] if name.startswith("checkpoints/round-00002/")]
    expected["states"] = {key: value for key, value in expected["states"].items() if key not in of_round_2}
    assert found["states"].pop("checkpoints/round-00002.safetensors")
    assert len(of_round_2) == 2
    assert found == expected


def test_seconds_add_up_over_sessions(make_config):
    config = make_config()
    with pytest.raises(Stop):
        Experiment(config).run(stop_at(8))
    spent = sum(Checkpoints(config.run_dir / "checkpoints", config_hash(config)).latest().seconds.values())
    summary = Experiment(config).run(resume=True)
    assert summary["seconds"] > spent > 0


def test_a_finished_run_returns_its_summary(make_config):
    config = make_config(rounds=1)
    summary = Experiment(config).run()
    (config.run_dir / "report.html").unlink()
    before = (config.run_dir / "metrics.jsonl").stat().st_mtime_ns
    assert Experiment(config).run(resume=True) == summary
    assert (config.run_dir / "metrics.jsonl").stat().st_mtime_ns == before
    assert (config.run_dir / "report.html").is_file()


def test_other_settings_are_refused_by_name(make_config):
    config = make_config(rounds=1)
    Experiment(config).run()
    changed = make_config(rounds=2, train__lr=0.5, threads=1)
    with pytest.raises(ExperimentError, match=r"belongs to other settings: rounds, train.lr differ"):
        Experiment(changed).run(resume=True)


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_two_processes_cannot_run_in_one_folder(make_config):
    config = make_config(rounds=1)
    with Experiment(config).folder.locked(), pytest.raises(ExperimentError, match="another process is running in it"):
        Experiment(config).run()
