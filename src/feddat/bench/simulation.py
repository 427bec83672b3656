"""``feddat bench clients --runtime simulation``: time and memory of Ray's actors for growing numbers of clients.

The model is tiny and each client has only a few questions, so that the figures show the growth of the runtime itself.
"""

from __future__ import annotations

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
from feddat.deploy.processes import descendants
from feddat.experiment.single.run import Experiment
from feddat.json_lines import objects
from feddat.memory import kernel_bytes

#: Training examples of a client, and also its test examples.
EXAMPLES = 4
#: Processes that the clients share.
ACTORS = 1
#: Seconds between two checks of the actors' memory.
PAUSE = 0.5
_PROCESSES = Path("/proc")


def bench_simulation(
    folder: Path,
    counts: Sequence[int] = (10, 50, 200),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a simulated federation of each size; return the content of ``simulation.json``.

    Args:
        folder: folder for the model, pictures and runs.
        counts: numbers of clients; the others are compared with the first.
        say: called with a short text before each measurement.

    Raises:
        ConfigError: Ray is not installed.
    """
    model, table = small_world(folder, "simulation", EXAMPLES)
    rows = []
    for count in counts:
        say(f"{count} clients in a simulation")
        runtime = ["runtime=simulation", f"runtime.actors={ACTORS}", "eval.every=3"]
        config = federation(folder, model, table, f"simulated-{count}", count, runtime, rounds=3, threads=1)
        with _Actors() as seen:
            run_in(Experiment(config), overwrite=True)
        seconds, training = second_round(config.run_dir)
        memory = {"peak": seen.peak()}
        rows.append({"clients": count, "seconds": [seconds / count], "training": training, "memory": memory})
    return {"kind": "simulation", "hardware": hardware(torch.device("cpu")), "actors": ACTORS, "rows": rows}


def second_round(folder: Path) -> tuple[float, list[float]]:
    """Return the seconds of a run's second round, and the seconds of each client's training in it.

    The first round does not count, because it includes all loading. The second one trains without evaluating.
    """
    lines = objects((folder / "log.jsonl").read_bytes())
    ends = [datetime.fromisoformat(line["time"]) for line in lines if line["event"] == "round"]
    training = [line["metrics"]["seconds"] for line in lines if line["event"] == "fit" and line["round"] == 2]
    return (ends[1] - ends[0]).total_seconds(), training


class _Actors:
    """Watch the memory of the Ray actors below this process while the block runs. Linux only."""

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
            raise RuntimeError("found no Ray actor among the child processes of this process")
        return max(self._peaks.values())

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            for process in descendants(os.getpid()):
                with suppress(OSError):  # the process can end at any moment
                    if b"ClientAppActor" in (_PROCESSES / str(process) / "cmdline").read_bytes():
                        peak = kernel_bytes(str(_PROCESSES / str(process) / "status"), "VmHWM")
                        self._peaks[process] = peak or self._peaks.get(process, 0)
