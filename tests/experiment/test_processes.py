"""No process of a deployment is left behind."""

import os
import sys
import time
from pathlib import Path

import pytest

from feddat.deploy import processes
from feddat.deploy.processes import Processes

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(100)
"""


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(), reason="not told here")
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_a_process_started_in_a_group_of_its_own_goes_with_it(tmp_path, monkeypatch, end):
    """Flower's SuperLink starts its server apps in this way."""
    (tmp_path / "parent.py").write_text(PARENT)
    popen = processes.subprocess.Popen

    def start(command, **options):
        return popen([sys.executable, str(tmp_path / "parent.py")], **options)

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    with Processes(tmp_path / "logs") as started:
        started.start("parent", [])
        log = started.log("parent")
        until(lambda: log.read_text().strip())
        child = int(log.read_text())
        assert runs(child)
        getattr(started, end)("parent")
        until(lambda: not runs(child))
        assert started.running() == set()
