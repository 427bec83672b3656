"""Worker processes run side by side, fail without disturbing each other, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from worker_tasks import meet, work

from feddat.workers import run_parallel


def test_a_worker_lives_long_and_is_replaced_when_it_dies(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    events = []
    tasks = {"a": 1, "refused": "refuse", "b": 2, "stumbled": "stumble", "dead": "die", "c": 3, "d": 4}
    results, failures = run_parallel(work, tasks, 1, lambda name, event: events.append((name, event)))
    assert results == {"a": 2, "b": 4, "c": 6, "d": 8}
    assert failures == {
        "refused": "train.lr: too high",
        "stumbled": "ZeroDivisionError: by nought",
        "dead": "its process ended (exit code 9)",
    }
    assert {name: event["reason"] for name, event in events if event["event"] == "failure"} == failures
    begun = {name: event for name, event in events if event["event"] == "begin"}
    assert set(begun) == set(tasks)
    pids = {name: event["pid"] for name, event in begun.items()}
    assert len({pids[name] for name in ("a", "refused", "b", "stumbled", "dead")}) == 1
    assert pids["c"] == pids["d"] != pids["dead"]
    assert os.getpid() not in pids.values()
    assert {(event["threads"], event["omp"]) for event in begun.values()} == {(1, "1")}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_workers_work_side_by_side(tmp_path):
    # Each waits for the other, so they succeed only side by side.
    tasks = {"a": (str(tmp_path), "a", "b"), "b": (str(tmp_path), "b", "a")}
    assert run_parallel(meet, tasks, 2) == ({"a": True, "b": True}, {})


def test_workers_end_with_a_killed_parent(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from worker_tasks import sleep
from feddat.workers import run_parallel
run_parallel(sleep, {{"a": {str(tmp_path)!r}}}, 1)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 300
        while not (files := list(tmp_path.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert files, "the worker did not start"
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pid = int(files[0].name.removeprefix("pid"))
    deadline = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has not waited for it yet is not alive.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
