"""Run experiments, or clients of one, in parallel: long-lived worker processes with a single thread each.

Small models gain nothing from several threads, so one process per core is the quickest way through a comparison.
Workers start fresh (spawn). They live for many tasks, because loading the libraries takes seconds, and end with their
parent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from feddat.parent import end_with_parent

#: Called in a worker: (argument, emit) -> result. ``emit`` sends an event to the parent.
Function = Callable[[Any, Callable[[dict[str, Any]], None]], Any]

_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def cores() -> int:
    """Return the number of cores that this process may use: on Linux, those of its affinity mask."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def run_parallel(
    function: Function,
    tasks: Mapping[str, Any],
    jobs: int,
    on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Call ``function`` on every task in worker processes.

    Args:
        function: a function of a module, so that a fresh process can import it.
        tasks: name -> argument; started in this order.
        jobs: number of processes.
        on_event: called in this process with the task's name and each event that it emits; a failed task ends with the
            event ``failure`` and its ``reason``.

    Returns:
        Results by name, and reasons of failure by name. A task that raises, or whose process dies, does not affect the
        others.
    """
    waiting = deque(tasks.items())
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    workers: dict[Connection, Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = Worker(function)
                workers[worker.pipe] = worker
                worker.give(*waiting.popleft())
            for pipe in connection.wait(list(workers)):
                worker = workers[pipe]  # type: ignore[index]
                kind, value = worker.receive()
                if kind == "event":
                    on_event(worker.task, value)
                    continue
                if kind == "result":
                    results[worker.task] = value
                else:
                    failures[worker.task] = value
                    on_event(worker.task, {"event": "failure", "reason": value})
                if kind == "death":
                    del workers[worker.pipe]
                elif waiting:
                    worker.give(*waiting.popleft())
                else:
                    worker.stop()
                    del workers[worker.pipe]
    finally:
        for worker in workers.values():
            worker.terminate()
    return results, failures


class Worker:
    """A process, the pipe to it, and the name of its current task.

    Args:
        function: called on every task; pickled once, so that a callable object can keep what it has loaded.
    """

    def __init__(self, function: Function) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task = ""
        self.process: BaseProcess = context.Process(target=_serve, args=(function, theirs), daemon=True)
        with _environment(_SINGLE_THREAD), out_of_reach():
            self.process.start()
        theirs.close()

    def give(self, name: str, argument: Any) -> None:
        """Start a task; only one at a time."""
        self.task = name
        with suppress(OSError):  # the worker died meanwhile; `receive` reports it
            self.pipe.send(argument)

    def receive(self) -> tuple[str, Any]:
        """Wait for the next output: an ``event``; finally ``result``, or ``failure`` or ``death`` with the reason."""
        try:
            said: tuple[str, Any] = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended (exit code {code})"
            return "death", f"its process {how}"
        return said

    def terminate(self) -> None:
        """End a worker whatever it does, and wait until it has ended."""
        self.process.terminate()
        self.stop()

    def stop(self) -> None:
        """End an idle worker, and wait until it has ended."""
        self.pipe.close()
        self.process.join()


def _serve(function: Function, pipe: Connection) -> None:
    """Run tasks until the pipe closes."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            argument = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("result", function(argument, lambda event: pipe.send(("event", event))))
        except Exception as error:  # An error in one task must not stop the others.
            reason = " ".join(str(error).split())
            if not _speaks_for_itself(error):
                traceback.print_exc()
                reason = f"{type(error).__name__}: {reason}"
            answer = ("failure", reason)
        pipe.send(answer)


def _speaks_for_itself(error: Exception) -> bool:
    """Return whether an error is this package's own, whose message says what to do; others need their traceback."""
    return type(error).__module__.startswith("feddat.")


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Shield processes started inside the block from Ctrl-C, from their first moment on.

    The process that starts them handles Ctrl-C, and then ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not POSIX
        yield
        return
    resource_tracker.ensure_running()  # otherwise it starts with the first process, and unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # child processes inherit the mask
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes started inside the block."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
