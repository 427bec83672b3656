"""Repeat a run and keep everything that its server sees, so that it can be attacked.

A run's folder keeps only its last two rounds. A run gives the same numbers each time, so repeating it on this machine's
data gives the earlier rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from feddat.app.checkpoint import Checkpoints, ServerState
from feddat.app.client import client_name, make_client_app
from feddat.app.grid import InProcessGrid
from feddat.app.tap import Seen, TappedApp
from feddat.audit.errors import AuditError
from feddat.client.store import KEY_FILE
from feddat.config import RunConfig
from feddat.example import ClientData
from feddat.experiment.single.client_data import load_clients
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.events import Progress
from feddat.experiment.single.federation import Federation, build_federation
from feddat.experiment.single.run import Experiment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trace:
    """One run, with everything that its server saw.

    Attributes:
        federation: the clients, with their state after the last round.
        state: the server's state after the last round.
        seen: round -> client -> the exchange of its training.
    """

    federation: Federation
    state: ServerState
    seen: dict[int, dict[str, Seen]]

    @property
    def rounds(self) -> list[int]:
        """The rounds in which something travelled, in ascending order."""
        return [round for round, seen in sorted(self.seen.items()) if any(one.received for one in seen.values())]

    def before(self, round: int) -> dict[str, Tensor]:
        """Return the shared part that clients received in a round."""
        return next(one.received for one in self.seen[round].values() if one.received)

    def after(self, round: int) -> dict[str, Tensor]:
        """Return the shared part that the server computed after a round."""
        return self.before(round + 1) if round + 1 in self.seen else self.state.shared

    def update(self, round: int, client: str) -> Tensor | None:
        """Return what a client's training added to the shared part, (D,); ``None``: the server cannot tell."""
        one = self.seen[round].get(client)
        if one is None or not one.sent:
            return None
        return flat(one.sent) - flat(one.received)

    def mean_update(self, round: int) -> Tensor:
        """Return what a round added to the shared part, (D,)."""
        return flat(self.after(round)) - flat(self.before(round))


def flat(state: dict[str, Tensor]) -> Tensor:
    """Return tensors as one vector, in the order of their names."""
    return torch.cat([state[key].detach().flatten().float() for key in sorted(state)])


def replay(
    experiment: Experiment,
    folder: Path,
    progress: Progress | None = None,
    change: Callable[[Sequence[ClientData]], Sequence[ClientData]] = lambda clients: clients,
) -> Trace:
    """Repeat an experiment in a new folder, and return what its server sees.

    Args:
        experiment: the one to repeat; its own folder is not touched.
        folder: an empty folder for the run.
        progress: receives the run's events.
        change: turns the clients' data into the data to run on.

    Raises:
        AuditError: the run wrote no checkpoint.
        DataError, ConfigError, ModelError, ExperimentError: as for :meth:`Experiment.run`.
    """
    config = quiet(experiment.config)
    again = Experiment(config, folder)
    clients = change(load_clients(again.settings))
    federation = build_federation(again.settings, clients, again.clients, partial(_key_of, experiment))
    seen: dict[int, dict[str, Seen]] = {}

    def watch(one: Seen) -> None:
        seen.setdefault(one.round, {})[one.client] = one

    app = make_client_app(lambda context, run: federation.site(client_name(context)))
    names = list(federation.participants)
    again.serve(InProcessGrid(TappedApp(app, watch), names), progress)
    form = federation.foundation.adapters.peft_form()
    state = Checkpoints(again.folder.checkpoints, config_hash(again.config), form).latest()
    if state is None:
        raise AuditError(f"run {folder}: no checkpoint was written")
    return Trace(federation, state, seen)


def _key_of(experiment: Experiment, client: str) -> Path | None:
    """Return a client's key in the run that is repeated, which determines its secret seed; ``None``: it has none."""
    key = experiment.clients / client / KEY_FILE
    return key if key.is_file() else None


def quiet(config: RunConfig) -> RunConfig:
    """Return a run's settings without what takes time and changes no numbers, such as scores between rounds."""
    evaluation = config.eval.model_copy(update={"every": config.rounds})
    runtime = config.runtime.model_copy(update={"kind": "in-process", "jobs": 1, "server": None})
    log_nowhere = config.log.model_copy(update={"tensorboard": False, "mlflow": None})
    return config.model_copy(update={"eval": evaluation, "runtime": runtime, "log": log_nowhere})


def same_as(experiment: Experiment, trace: Trace) -> bool | None:
    """Return whether a run and its repetition ended with the same shared part, to the last bit.

    ``None``: the run has no checkpoint of the same round to compare with.
    """
    checkpoints = Checkpoints(experiment.folder.checkpoints, config_hash(experiment.config))
    state = checkpoints.latest()
    if state is None or state.round != trace.state.round:
        return None
    ours, theirs = trace.state.shared, state.shared
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
