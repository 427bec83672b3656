"""Processes of a deployment on this machine, each in its own process group, and ended together with its descendants."""

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

#: Seconds that a process has to end after a request.
GRACE = 5.0


def search_path(path: str | None) -> str:
    """Return a ``PATH`` on which Flower finds its programs. It starts them by name, and a service activates no venv."""
    scripts = str(Path(sys.executable).parent)
    return f"{scripts}{os.pathsep}{path}" if path else scripts


class Processes:
    """The processes of one deployment, by name; leaving the block ends them.

    Args:
        logs: folder for their output, one file each.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Start ``feddat COMMAND`` and return its process id; append its output to ``NAME.log``."""
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
        """Return the names of the processes that were started and not stopped or killed by this object."""
        return set(self._running)

    def log(self, name: str) -> Path:
        """Return the file of a process's output."""
        return self._logs / f"{name}.log"

    def kill(self, name: str) -> None:
        """Kill a process and all its descendants at once, as a power cut would."""
        process = self._running.pop(name)
        _kill(process, descendants(process.pid))

    def stop(self, name: str) -> None:
        """Ask a process to end, then kill it and its descendants if any are left after :data:`GRACE` seconds."""
        process = self._running.pop(name)
        below = descendants(process.pid)
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
        """Stop all processes, the last one first."""
        for name in reversed(list(self._running)):
            self.stop(name)


def _kill(process: subprocess.Popen[bytes], below: Sequence[int]) -> None:
    """Kill a process's group (its id is the process's own) and its descendants in other groups; all may be gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process; empty on systems other than Linux.

    Flower's SuperLink starts its server apps outside its own group; orphaned ones take some seconds to notice.
    """
    found: list[int] = []
    threads: list[Path] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
    for thread in threads:
        with suppress(FileNotFoundError, ProcessLookupError):  # this thread has just ended; the others go on
            for child in (thread / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def free_ports(count: int) -> list[int]:
    """Return ports on the loopback address that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
