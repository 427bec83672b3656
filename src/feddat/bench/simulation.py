"""``feddat bench clients --runtime simulation``: memory of Ray's actors, and time, with ever more virtual clients.

The model is tiny and the clients have a few questions each, so that what is seen is the runtime's own growth.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import torch

from feddat.bench.clients import federation, small_world
from feddat.bench.clock import hardware
from feddat.deploy.launch import run_in
from feddat.experiment.single.run import Experiment

#: Training examples, and test examples, of a client.
EXAMPLES = 4
#: Seconds between two looks at the actors.
PAUSE = 0.5
_PROCESSES = Path("/proc")


def bench_simulation(
    folder: Path,
    counts: Sequence[int] = (10, 50, 200),
    actors: int = 1,
    method: str = "feddat",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a simulated federation of each size; return what ``simulation.json`` holds.

    Args:
        folder: where a model, pictures and runs are made.
        counts: numbers of clients; the first is what the others are compared with.
        actors: processes that clients take turns in.
        method: of the runs.
        say: told what is measured.

    Raises:
        ConfigError: Ray is not installed.
    """
    model, table = small_world(folder, "simulation", EXAMPLES)
    rows = []
    for count in counts:
        say(f"{count} clients in a simulation")
        runtime = [f"runtime.actors={actors}", "runtime=simulation", "eval.every=3"]
        config = federation(folder, model, table, f"simulated-{count}", count, method, runtime, rounds=3, threads=1)
        with _Actors() as seen:
            run_in(Experiment(config), overwrite=True)
        seconds, training = second_round(config.run_dir)
        memory = {"peak": seen.peak()}
        rows.append({"clients": count, "seconds": [seconds / count], "training": training, "memory": memory})
    return {"kind": "simulation", "hardware": hardware(torch.device("cpu")), "actors": actors, "rows": rows}


def second_round(folder: Path) -> tuple[float, list[float]]:
    """Return the seconds of a run's second round, in which clients train alone, and those of each client's training.

    The first is left out: everything is loaded in it.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [datetime.fromisoformat(line["time"]) for line in lines if line["event"] == "round"]
    training = [line["metrics"]["seconds"] for line in lines if line["event"] == "fit" and line["round"] == 2]
    return (ends[1] - ends[0]).total_seconds(), training


class _Actors:
    """Looks at the memory of Ray's actors below this process, as long as its block lasts. Linux only."""

    def __init__(self) -> None:
        self._peaks: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def peak(self) -> int:
        """Return the most bytes that one actor held."""
        if not self._peaks:
            raise RuntimeError("no actor of Ray was seen below this process")
        return max(self._peaks.values())

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            for process in _below(os.getpid()):
                with suppress(OSError, StopIteration):  # it may end at any moment
                    if b"ClientAppActor" in (_PROCESSES / str(process) / "cmdline").read_bytes():
                        self._peaks[process] = _peak(process)


def _below(ancestor: int) -> set[int]:
    """Return the processes that a process started, and those that they did."""
    parents: dict[int, int] = {}
    for entry in _PROCESSES.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def _peak(process: int) -> int:
    """Return the most bytes a process has held so far."""
    lines = (_PROCESSES / str(process) / "status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
