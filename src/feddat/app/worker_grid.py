"""Clients in parallel: the same messages, given to worker processes that live for the whole run.

A turn depends only on its message and the client's own store, so it does not matter which process takes it, or when.
The numbers equal those of turns in this process with the same number of threads.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from flwr.app import Message

from feddat.app.grid import RUN_ID, LocalGrid, failure
from feddat.workers import Function, Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of a worker.

    Attributes:
        client: name of the client whose turn it is.
        message: the message to the client.
        run_id: the run id of the grid.
    """

    client: str
    message: Message
    run_id: int


class WorkerGrid(LocalGrid):
    """Carry messages between the server and worker processes. Each worker runs one client's turn at a time.

    A client goes to the worker that has prepared its data, if that worker is free. A free worker takes over a client
    that waits for a busy one. A worker that dies is replaced, and its client's reply is an error. Log records of the
    package in a worker are logged here (see :func:`feddat.experiment.single.client_process.ClientProcess`).

    Args:
        function: called in the workers, :class:`Turn` -> reply.
        clients: client names.
        jobs: number of processes; they start with the first messages, and end with :meth:`close`.
    """

    def __init__(self, function: Function, clients: Sequence[str], jobs: int) -> None:
        super().__init__(clients)
        self._function, self._jobs = function, jobs
        self._idle: list[Worker] = []
        self._busy: dict[Worker, Message] = {}
        self._homes: dict[int, Worker] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the replies in the order of client names, while other turns go on.

        If the caller stops early, terminate the workers that are still busy.
        """
        began = time.monotonic()
        waiting = list(self._stamped(messages))
        nodes = deque(message.metadata.dst_node_id for message in waiting)
        replies: dict[int, Message] = {}
        try:
            while nodes:
                if waiting and timeout is not None and time.monotonic() - began >= timeout:
                    never = {message.metadata.dst_node_id for message in waiting}
                    nodes = deque(node for node in nodes if node not in never)
                    waiting.clear()
                while waiting and (worker := self._free()) is not None:
                    self._give(worker, waiting)
                while nodes and nodes[0] in replies:
                    yield self._used(replies.pop(nodes.popleft()))
                if nodes:
                    replies |= self._received()
        finally:
            for worker in self._busy:
                worker.terminate()
            self._busy.clear()

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._busy:
            worker.terminate()
        for worker in self._idle:
            worker.stop()
        self._busy.clear()
        self._idle.clear()
        self._homes.clear()

    def _free(self) -> Worker | None:
        """Return a free worker, or a new one if fewer than ``jobs`` are busy; ``None`` if all are busy."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            log.warning("an idle worker ended: %s; a new one replaces it", worker.receive()[1])
            self._forget(worker)
        return Worker(self._function) if len(self._busy) < self._jobs else None

    def _give(self, worker: Worker, waiting: list[Message]) -> None:
        """Give a worker its best turn: a client it has prepared, else one that no worker has, else the last one."""
        homes = [self._homes.get(message.metadata.dst_node_id) for message in waiting]
        known = next((index for index, home in enumerate(homes) if home is worker), None)
        fresh = next((index for index, home in enumerate(homes) if home is None), None)
        message = waiting.pop(known if known is not None else fresh if fresh is not None else -1)
        node = message.metadata.dst_node_id
        self._homes[node], self._busy[worker] = worker, message
        worker.give(self.names[node], Turn(self.names[node], message, RUN_ID))

    def _received(self) -> dict[int, Message]:
        """Wait for output from any worker; return the new replies by node id."""
        replies = {}
        pipes: dict[Any, Worker] = {worker.pipe: worker for worker in self._busy}
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]
            kind, value = worker.receive()
            if kind == "event":
                logging.getLogger(value["logger"]).log(value["level"], "%s", value["message"])
                continue
            message = self._busy.pop(worker)
            replies[message.metadata.dst_node_id] = value if kind == "result" else failure(message, value)
            if kind == "death":
                self._forget(worker)
            else:
                self._idle.append(worker)
        return replies

    def _forget(self, worker: Worker) -> None:
        self._homes = {node: home for node, home in self._homes.items() if home is not worker}
