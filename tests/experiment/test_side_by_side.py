"""Clients in worker processes: the same numbers as one after another, and what happens if a process is killed."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from feddat.client.store import PersonalStore, StoreError
from feddat.config import ConfigError
from feddat.example import DataError
from feddat.experiment import Experiment, comparison_runs
from feddat.experiment.single.client_process import choose_jobs
from feddat.experiment.single.federation import load_federation
from feddat.files import locked
from two_clients import numbers


def four(world, **values):
    """Return settings of a run of four clients: two with ann's data, two with bob's."""
    splits = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    sources = {"ann": "ann", "bob": "bob", "cid": "ann", "dan": "bob"}
    clients = {
        name: {split: str(world / source / file) for split, file in splits.items()} for name, source in sources.items()
    }
    return {"clients": clients} | values


def test_the_numbers_are_those_of_one_after_another(make_config, world, tmp_path):
    settings = four(world, rounds=2, server__fraction=0.75, wire__format="int8", threads=1)
    Experiment(make_config(name="alone", **settings)).run()
    events = []
    Experiment(make_config(name="two", runtime__jobs=2, **settings)).run(events.append)
    assert numbers(tmp_path / "runs" / "two") == numbers(tmp_path / "runs" / "alone")
    told = [(event["round"], event["client"]) for event in events if event["event"] == "fit"]
    assert told == sorted(told)
    assert len(told) == 2 * 3


@pytest.mark.slow
def test_a_run_killed_with_its_workers_at_work_goes_on_with_the_same_numbers(make_config, world, tmp_path):
    settings = four(world, rounds=3, threads=1, train__epochs=2)
    Experiment(make_config(name="whole", **settings)).run()
    config = tmp_path / "config.yaml"
    config.write_text(make_config(name="killed", runtime__jobs=2, **settings).to_yaml())
    script = f"from feddat import Experiment\nif __name__ == '__main__':\n    Experiment.load({str(config)!r}).run()\n"
    path = tmp_path / "script.py"
    path.write_text(script)
    process = subprocess.Popen([sys.executable, str(path)])
    folder = tmp_path / "runs" / "killed"
    try:
        wait_for(lambda: len(list((folder / "checkpoints").glob("round-*"))) >= 1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "summary.json").exists()
    Experiment.open(folder).run(resume=True, jobs=2)
    assert numbers(folder) == numbers(tmp_path / "runs" / "whole")


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_client_one_turn(make_config, world, tmp_path):
    events = []

    def note(event):
        events.append(event)
        if event["event"] == "round" and event["round"] == 1:  # both are idle
            first, second = workers()
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: workers() == [second])
        if event["event"] == "fit" and event["round"] == 2 and not killers:
            killers.append(threading.Timer(0.0, kill_a_busy_one))
            killers[0].start()

    def kill_a_busy_one():
        os.kill(max(workers(), key=processor_time), signal.SIGKILL)

    killers: list[threading.Timer] = []
    settings = four(world, rounds=3, runtime__jobs=2, train__epochs=10)
    summary = Experiment(make_config(**settings)).run(note)
    failed = [event for event in events if event["event"] == "failed"]
    assert [event["reason"] for event in failed] == ["its process was killed (SIGKILL)"]
    assert failed[0]["round"] == 2
    assert summary["failed"] == 1
    assert not summary["missing"]
    told = [event["client"] for event in events if event["event"] == "fit" and event["round"] == 3]
    assert told == ["ann", "bob", "cid", "dan"]
    assert not workers()
    log = [json.loads(line) for line in (tmp_path / "runs" / "run" / "log.jsonl").read_text().splitlines()]
    idle = "an idle worker ended: its process was killed (SIGKILL); a new one replaces it"
    assert idle in [line["message"] for line in log]


@pytest.mark.parametrize(
    ("jobs", "split", "run"),
    [(1, "train", {}), (1, "validation", {}), (1, "test", {}), (1, "test", {"method": "central"}), (2, "test", {})],
)
def test_a_bad_picture_of_any_split_ends_a_run_in_its_first_round(make_config, world, tmp_path, jobs, split, run):
    settings = four(world, rounds=2, runtime__jobs=jobs, **run)
    shutil.copytree(world / "bob", tmp_path / "bob")
    picture = tmp_path / "bob" / f"{split}0.png"
    before = picture.read_bytes()
    picture.write_bytes(b"no picture")
    settings["clients"]["bob"] = four(tmp_path)["clients"]["bob"]
    events = []
    experiment = Experiment(make_config(**settings))
    with pytest.raises(DataError, match=rf"client bob, {split}: .*{split}0\.png: cannot be decoded"):
        experiment.run(events.append)
    assert not any(event["event"] == "round" for event in events)
    assert not workers()
    picture.write_bytes(before)
    summary = experiment.run(resume=True)
    assert (summary["failed"], summary["missing"], list(summary["clients"])) == (0, [], list("ann bob cid dan".split()))


def test_one_process_at_a_time_works_on_a_clients_state(tmp_path, monkeypatch):
    monkeypatch.setattr("feddat.client.store.PATIENCE", 0.2)
    store = PersonalStore(tmp_path, "ann")
    # To the system, a lock of a second file description is like a lock of another process.
    with (
        locked(store.folder),
        pytest.raises(StoreError, match="client ann: another process is using its personal state"),
        store.held(),
    ):
        pass
    with store.held():
        store.save(1, {"x": torch.ones(1)})


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_frozen_weights_stay_those_of_the_file(make_config, world):
    """A run copies no page of the memory-mapped model file, so processes can share it."""
    Experiment(make_config(rounds=1)).run()
    gc.collect()  # frees models of other tests, some of which write to their weights
    file = str(world / "model" / "model.safetensors")
    copied, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(file)
        elif inside and line.startswith("Anonymous:"):
            copied.append(line.split()[1])
    assert set(copied) == {"0"}


def test_auto_is_for_small_models_and_for_cores_that_are_free(make_config, world, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))

    def chosen(**values):
        config = Experiment(make_config(**four(world, **values))).settings
        return choose_jobs(config, load_federation(config, tmp_path))

    assert chosen() == 1
    assert chosen(runtime__jobs="auto") == 3
    assert chosen(runtime__jobs="auto", server__fraction=0.5) == 2
    assert chosen(runtime__jobs="auto", threads=2) == 1
    assert chosen(runtime__jobs=9) == 4
    monkeypatch.setattr("feddat.experiment.single.client_process.SMALL", 10)
    assert chosen(runtime__jobs="auto") == 1


def test_runs_of_a_comparison_stay_in_their_processes(make_config):
    config = make_config(runtime__jobs="auto", runtime__cuda_graphs=False)
    (run,) = comparison_runs(config, ["feddat"], [0]).values()
    assert run.runtime.jobs == 1 and not run.runtime.cuda_graphs
    with pytest.raises(ConfigError, match=r"runtime\.jobs: 2, but the runs of a comparison are parallel already"):
        comparison_runs(make_config(runtime__jobs=2), ["feddat"], [0])
    with pytest.raises(ConfigError, match="jobs: 2, but only kind in-process uses jobs, not simulation; use act"):
        make_config(runtime__jobs=2, runtime__kind="simulation")


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.01)


def workers():
    """Return the ids of this process's worker processes."""
    from multiprocessing import active_children

    return [child.pid for child in active_children()]


def processor_time(pid):
    with Path(f"/proc/{pid}/stat").open() as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
