"""Ctrl-C, sent to a process and all its children as a terminal does: one error line, code 130, no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment.published_tree import write_published
from feddat.workers import Worker
from helpers import make_tiny_vilt

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux who is left")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def group(leader: int) -> list[int]:
    """Return the process ids in a process group, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def interrupted(command: list[str], ready) -> tuple[int, str, list[str]]:
    """Start a command, send Ctrl-C when it is ready; return the exit code, the output and the lines of errors."""
    process = subprocess.Popen(
        [sys.executable, "-m", "feddat", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    while not ready(process.pid) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    until = time.monotonic() + 10
    while (left := group(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, "processes that outlive it"
    return process.returncode, out, err.splitlines()


def settings(tmp_path: Path) -> list[str]:
    sizes = ["rounds=50", "train_examples=16", "test_examples=8", "threads=1"]
    return [f"model={make_tiny_vilt(tmp_path / 'model')}", f"runs_dir={tmp_path / 'runs'}", *sizes]


def has_workers(count: int):
    return lambda pid: len(group(pid)) >= count


def sleeps_a_moment(seconds, emit):
    time.sleep(seconds)
    return "awake"


def test_workers_do_not_notice_it_at_any_moment():
    """Workers ignore Ctrl-C even while they start, before their own code can ask for that."""
    worker = Worker(sleeps_a_moment)
    os.kill(worker.process.pid, signal.SIGINT)
    worker.give("task", 0.1)
    os.kill(worker.process.pid, signal.SIGINT)
    assert worker.receive() == ("result", "awake")
    os.kill(worker.process.pid, signal.SIGINT)
    worker.stop()
    assert worker.process.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "this process still does"


@pytest.mark.slow
def test_a_comparison_whose_workers_have_just_been_started(tmp_path):
    command = ["compare", *settings(tmp_path), "-m", "head,local", "--seeds", "1", "--jobs", "2", "--overwrite"]
    code, _, errors = interrupted(command, has_workers(3))
    assert code == 130
    (line,) = errors
    again = " ".join(word for word in command if word != "--overwrite")
    assert line == f"error: interrupted; finished work is kept; continue with: feddat {again}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["run", "method=head", "name=x"],
        ["run", "method=head", "name=x", "runtime.jobs=2"],
        ["compare", "-m", "head", "--seeds", "2", "--jobs", "2"],
        ["study", "rounds=40,50", "-m", "head", "--seeds", "1", "--jobs", "2"],
    ],
    ids=" ".join,
)
def test_runs_that_are_under_way(tmp_path, command):
    def ready(pid):
        return any(path.stat().st_size for path in tmp_path.rglob("metrics.jsonl"))

    code, _, errors = interrupted([*command, *settings(tmp_path)], ready)
    assert code == 130
    (line,) = errors
    assert line.startswith("error: interrupted; finished work is kept; continue with: feddat ")
    if command[0] == "run":
        assert line.endswith(f"feddat run --resume {tmp_path / 'runs' / 'x'}")


@pytest.mark.slow
def test_a_federation_that_is_prepared(tmp_path):
    write_published(tmp_path / "published", "paper/domain")
    where = ["--root", str(tmp_path / "published"), "--out", str(tmp_path / "out")]
    command = ["data", "prepare", "-b", "paper/domain", *where, "--model", str(make_tiny_vilt(tmp_path / "model"))]
    code, _, errors = interrupted(command, lambda pid: (tmp_path / "out").is_dir())
    (line,) = errors
    assert (code, line) == (
        130,
        f"error: interrupted; finished work is kept; continue with: feddat {' '.join(command)}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_model_that_is_pretrained(tmp_path, jobs):
    tiny = ["hidden=32", "heads=2", "layers=1", "batch_size=16", "every=2", f"jobs={jobs}", "steps=100000"]
    command = ["pretrain", str(tmp_path / "made"), *tiny, "simple_steps=2", "warmup=2"]
    begun = (lambda pid: (tmp_path / "made" / "settings.json").exists()) if jobs == 1 else has_workers(3)
    code, _, errors = interrupted(command, begun)
    (line,) = errors
    assert (code, line) == (
        130,
        f"error: interrupted; finished work is kept; continue with: feddat {' '.join(command)}",
    )
