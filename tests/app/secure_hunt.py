"""A server with clients in another process, which stops at every point where a test searches its memory.

Run as ``python -m secure_hunt FOLDER plain|secure``. It prints a line at every stop and continues when it reads a line.
The update of ``c01`` is drawn from a seed, so that the test can compute it, too.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fakes import app_of
from flwr.app import Context, RecordDict
from secure_fakes import Drawn, secure_app

from feddat.app.checkpoint import Checkpoints, ServerState
from feddat.app.grid import client_context, deliver, identify
from feddat.app.roster import Roster
from feddat.app.rules import MeanRule
from feddat.app.secure_strategy import SecureStrategy
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.app.worker_grid import WorkerGrid
from feddat.config import EvalConfig
from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.terms import Rules

NAMES = ("c00", "c01", "c02")
SIZE = 3000


def adapter() -> dict[str, torch.Tensor]:
    return {"w": torch.zeros(SIZE)}


def update(round: int) -> np.ndarray:
    """Return the update of ``c01``, which the test searches for."""
    return Drawn("c01").update(round, adapter())["w"].numpy()


def needles() -> dict[str, bytes]:
    """Return the forms that the first round's update can have in memory: name -> a stretch of 20 numbers."""
    found = update(1)
    most = fixed_point.levels(len(NAMES), Rules().bits)
    levels = fixed_point.quantise(found, Rules().clip, most)[0]
    ring = fixed_point.to_ring(levels, Rules().bits)
    forms = {
        "float32": found,
        "float64": found.astype(np.float64),
        "levels": levels,
        "levels, int32": levels.astype(np.int32),
        "ring": ring,
    }
    cut = {name: np.ascontiguousarray(values[1000:1020]).tobytes() for name, values in forms.items()}
    return cut | {"packed": fixed_point.pack(ring, Rules().bits)[1500:1530].tobytes()}


@cache
def _app(folder: Path, secure: bool):
    everybody = [Drawn(name) for name in NAMES]
    return secure_app(everybody, folder / "clients", Rules()) if secure else app_of(*everybody)


class Turns:
    """The function of the worker process: let a client answer a message."""

    def __init__(self, folder: Path, secure: bool) -> None:
        self.folder, self.secure = folder, secure

    def __call__(self, turn, emit):
        identify(turn.run_id)
        node = turn.message.metadata.dst_node_id
        return deliver(_app(self.folder, self.secure), turn.message, client_context(node, turn.client, turn.run_id))


def stop(where: str) -> None:
    print(where, flush=True)
    sys.stdin.readline()


def main(folder: Path, secure: bool) -> None:
    logging.basicConfig(filename=folder / "log.txt", level=logging.DEBUG)
    grid = WorkerGrid(Turns(folder, secure), NAMES, 1)

    def notify(event):
        logging.info("%s", event)
        if event["event"] == "fit" and event["client"] == "c01":
            stop(f"trained {event['round']}")

    settings = {"seed": 0, "rule": MeanRule(), "shapes": {"w": (SIZE,)}, "routes": ("dat",), "notify": notify}
    settings["roster"] = Roster("run")
    strategy = SecureStrategy(sums=Rules(), **settings) if secure else AdapterStrategy(**settings)
    if secure:
        exchange = strategy._exchange

        def stopping(round, step, names, values, take):
            def taking(name, message):
                take(name, message)
                if name == "c01":
                    stop(f"{step} {round}")

            exchange(round, step, names, values, taking)

        strategy._exchange = stopping
    checkpoints = Checkpoints(folder / "checkpoints", "hash")
    app = make_server_app(
        strategy, ServerState(adapter()), rounds=1, evaluation=EvalConfig(), save=checkpoints.save, notify=notify
    )
    app(grid, Context(1, 0, {}, RecordDict(), {}))
    stop("end")
    grid.close()


if __name__ == "__main__":
    from secure_hunt import main as run  # so that workers can import the pickled classes

    run(Path(sys.argv[1]), sys.argv[2] == "secure")
