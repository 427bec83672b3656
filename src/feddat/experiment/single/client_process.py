"""Worker processes for the clients of one run: their number, and the work of one process.

Each process loads the run's model and data once. The frozen weights are memory-mapped from the model's file, so that
all processes share one copy of them, as long as the file has them in the format in which they are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from feddat.app.client import client_name, make_client_app
from feddat.app.grid import client_context, deliver, identify
from feddat.app.strategy import sample_size
from feddat.app.worker_grid import Turn
from feddat.config import RunConfig
from feddat.experiment.single.federation import Federation, load_federation
from feddat.workers import cores

#: Largest number of parameters at which a model gains little from a second thread.
SMALL = 20_000_000


class ClientProcess:
    """Handles a :class:`~feddat.app.worker_grid.Turn` in a worker process; the first turn loads the federation.

    Args:
        settings: settings of the run, with an algorithm's name as method.
        clients: folder of the clients' personal states.
    """

    def __init__(self, settings: RunConfig, clients: Path) -> None:
        self._settings, self._clients = settings, clients
        self._app: ClientApp | None = None

    def __call__(self, turn: Turn, emit: Callable[[dict[str, Any]], None]) -> Message:
        """Return the client's reply, which is an error if it failed; pass on warnings of the package's loggers."""
        identify(turn.run_id)
        if self._app is None:
            logging.getLogger("feddat").addHandler(_Emitter(emit))
            here = load_federation(self._settings, self._clients)
            self._app = make_client_app(lambda context, run: here.site(client_name(context)))
        node = turn.message.metadata.dst_node_id
        return deliver(self._app, turn.message, client_context(node, turn.client, turn.run_id))


class _Emitter(logging.Handler):
    """Forward log records to the parent process, which shows them to the user."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit({"logger": record.name, "level": record.levelno, "message": record.getMessage()})


def choose_jobs(settings: RunConfig, federation: Federation) -> int:
    """Return the number of worker processes for the clients of a run; 1 means this process only."""
    asked = settings.runtime.jobs
    if asked != "auto":
        return min(asked, len(federation.participants))
    parameters = sum(parameter.numel() for parameter in federation.foundation.backbone.model.parameters())
    if current_process().daemon or torch.device(settings.device).type != "cpu" or parameters > SMALL:
        return 1
    turns = sample_size(settings.server.fraction, len(federation.participants))
    return max(1, min(cores() // (settings.threads or 1), turns))


@contextmanager
def single_thread(settings: RunConfig) -> Iterator[None]:
    """Compute in this process with as many threads as in workers: one, unless the run's settings give a number."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
