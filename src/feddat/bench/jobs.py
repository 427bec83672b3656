"""``feddat bench jobs``: the same round of training with clients one after another, and in parallel in workers.

All clients load and prepare their data before the first measured turn; the time for that is reported separately. The
replies of all ways with one thread must be bit-identical, whichever process computed them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from feddat.app import messages
from feddat.app.client import client_name, make_client_app
from feddat.app.grid import InProcessGrid, LocalGrid
from feddat.app.worker_grid import WorkerGrid
from feddat.bench.clock import hardware
from feddat.config import RunConfig
from feddat.experiment.single.client_process import ClientProcess
from feddat.experiment.single.federation import load_federation
from feddat.experiment.single.run import Experiment


def bench_jobs(
    folder: Path,
    config: RunConfig,
    jobs: Sequence[int] = (2,),
    cycles: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the first training round of a run's clients in every way, in turns; return the content of ``jobs.json``.

    Args:
        folder: folder for the clients' states; each way gets its own subfolder.
        config: configuration of the run.
        jobs: numbers of workers. For comparison, the clients also train one after another in this process, with one
            thread and with each of these numbers of threads.
        cycles: measured turns of each way.
        say: called with a short text before each measurement.

    Raises:
        RuntimeError: the replies of ways with one thread differ, or a client failed.
    """
    settings = Experiment(config).settings
    ways: dict[str, tuple[LocalGrid, int]] = {}
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        for count in dict.fromkeys((1, *jobs)):
            here = load_federation(settings, folder / f"threads-{count}")
            app = make_client_app(lambda context, run, here=here: here.site(client_name(context)))  # type: ignore[misc]
            ways[f"this process, {count} thread{'s'[: count > 1]}"] = InProcessGrid(app, list(here.participants)), count
        for count in jobs:
            process = ClientProcess(settings.model_copy(update={"threads": 1}), folder / f"jobs-{count}")
            workers = WorkerGrid(process, list(here.participants), count)
            stack.callback(workers.close)
            ways[f"{count} workers, 1 thread each"] = workers, 1
        shared, model = here.foundation.initial_shared(), here.foundation.model
        first: dict[str, Any] = {}
        for cycle in range(-1, cycles):  # the first turn loads and prepares everything and does not count
            for place, (name, (grid, count)) in enumerate(ways.items()):
                say(f"{name}, turn {cycle + 1} of {cycles}")
                torch.set_num_threads(count)
                taken, replies = _round(grid, shared, model, settings.rounds)
                if cycle < 0:
                    rows.append({"way": name, "clients": len(here.participants), "seconds": [], "loading": taken})
                    if count == 1 and replies != first.setdefault("replies", replies):
                        raise RuntimeError(f"{name}: the replies differ from those of {next(iter(ways))}")
                else:
                    rows[place]["seconds"].append(taken)
    for row in rows:
        row["loading"] = max(0.0, row["loading"] - sum(row["seconds"]) / cycles)
    return {"kind": "jobs", "hardware": hardware(torch.device(settings.device)), "cycles": cycles, "rows": rows}


def _round(
    grid: LocalGrid, shared: dict[str, torch.Tensor], model: dict[str, str], rounds: int
) -> tuple[float, list[dict[str, bytes]]]:
    """Let all clients train for one round; return the seconds, and the bytes of each client's adapter."""
    started = time.perf_counter()
    arrays, config = messages.to_arrays(shared), messages.instruction_config(1, rounds, model=model)
    content = messages.instruction_content(arrays, config)
    asked = [grid.create_message(content, "train", node, "1") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(asked))
    taken = time.perf_counter() - started
    failed = [reply.error.reason for reply in replies if reply.has_error()]
    if failed:
        raise RuntimeError(f"a client failed: {failed[0]}")
    return taken, [
        {key: array.numpy().tobytes() for key, array in reply.content.array_records[messages.SHARED].items()}
        for reply in replies
    ]
