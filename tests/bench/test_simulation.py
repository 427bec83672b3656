"""How the benchmark watches Ray's actors, tested without Ray: memory of child processes, and times of rounds."""

import json
import os
import subprocess
import sys

import pytest

from feddat.bench import simulation
from feddat.deploy.processes import descendants

SCRIPT = """
import subprocess, sys
held = bytearray(64 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


def test_actors_below_this_process_are_seen_with_the_most_they_held(monkeypatch):
    monkeypatch.setattr(simulation, "PAUSE", 0.02)
    # A shell sits between the two, as Ray's raylet does. The actor's process title is an argument here.
    command = f"{sys.executable} -c '{SCRIPT}' ray::ClientAppActor; true"
    with simulation._Actors() as seen:
        process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        (child,) = descendants(process.pid)
        assert child in descendants(os.getpid())
        deadline = simulation.threading.Event()
        while child not in seen._peaks:
            assert not deadline.wait(0.02)
        deadline.wait(0.1)
        process.communicate()
    assert 64 << 20 < seen.peak() < 512 << 20


def test_without_actors_there_is_nothing_to_tell():
    with pytest.raises(RuntimeError, match="found no Ray actor"), simulation._Actors() as seen:
        seen.peak()


def test_the_second_round_counts(tmp_path):
    times = ["10:00:00.000", "10:00:07.500", "10:00:09.000"]
    lines = []
    for number, time in enumerate(times, start=1):
        lines.append({"event": "fit", "round": number, "metrics": {"seconds": float(number)}})
        lines.append({"event": "round", "round": number, "time": f"2026-01-01T{time}+00:00"})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert simulation.second_round(tmp_path) == (7.5, [2.0])
