"""Processes of a deployment on this machine: started each in a group of its own, and ended with all below them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from feddat.deploy.names import QUIET

#: Seconds that a process has to end by itself.
GRACE = 5.0


def search_path(path: str | None) -> str:
    """Return a ``PATH`` on which Flower finds its own programs: it starts them by name, and a service has no venv."""
    scripts = str(Path(sys.executable).parent)
    return f"{scripts}{os.pathsep}{path}" if path else scripts


class Processes:
    """The processes of one deployment, by name; leaving the block ends them.

    Args:
        logs: folder of what they print, a file each.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Start ``feddat COMMAND`` and return its process id; what it prints is added to ``NAME.log``."""
        values = QUIET | os.environ | dict(environment or {})
        values["PATH"] = search_path(values.get("PATH"))
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "feddat.cli", *command],
                env=values,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        return process.pid

    def ended(self) -> dict[str, int]:
        """Return the processes that have ended by themselves, with their exit codes."""
        codes = {name: process.poll() for name, process in self._running.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def running(self) -> set[str]:
        """Return the names of the processes that were started and have not been ended from here."""
        return set(self._running)

    def log(self, name: str) -> Path:
        """Return the file of what a process prints."""
        return self._logs / f"{name}.log"

    def kill(self, name: str) -> None:
        """End a process and everything it started at once, as a power cut would."""
        process = self._running.pop(name)
        _kill(process, _below(process.pid))

    def stop(self, name: str) -> None:
        """End a process, and after a while whatever it has left behind."""
        process = self._running.pop(name)
        below = _below(process.pid)
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _kill(process, below)

    def __enter__(self) -> Processes:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes, the last one first."""
        for name in reversed(list(self._running)):
            self.stop(name)


def _kill(process: subprocess.Popen[bytes], below: Sequence[int]) -> None:
    """Kill a process's group, whose number is its own, and those below it in groups of their own; all may be gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have; where the system tells (Linux).

    Flower's SuperLink starts its server apps out of its own group; left alone they notice after some seconds.
    """
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *_below(int(child))]
    return found


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
