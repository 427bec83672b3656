"""One run, from its configuration to its summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from feddat.admitted import admission
from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState
from feddat.app.client import client_name, make_client_app
from feddat.app.grid import InProcessGrid
from feddat.app.worker_grid import WorkerGrid
from feddat.benchmarks import list_benchmarks
from feddat.benchmarks.medical import MEDICAL, pin_revisions
from feddat.config import RunConfig, load_config
from feddat.data.readers.hub_data import data_address, pin_data
from feddat.example import Example
from feddat.experiment.exports.answerer import Answerer
from feddat.experiment.exports.card import Origin
from feddat.experiment.exports.write import Options, client_model, export, shared_model
from feddat.experiment.single.client_process import ClientProcess, choose_jobs, single_thread
from feddat.experiment.single.events import Announcer, Progress
from feddat.experiment.single.federation import CENTRAL, Federation, check_sites, load_federation, participant_names
from feddat.experiment.single.folder import ExperimentError, RunFolder, config_hash, disk_errors
from feddat.experiment.single.foundation import Foundation, answering_state, checks_weights, load_foundation
from feddat.experiment.single.methods import resolve
from feddat.experiment.single.rounds import Service, evaluate, predict, tell_notes
from feddat.experiment.single.trackers import check_trackers
from feddat.experiment.single.world import check_world, model_world, other_than, whole_world
from feddat.models.catalog import list_models
from feddat.models.known import EXAMPLE
from feddat.models.named import pin_model
from feddat.precision import resolve_precision
from feddat.site import read_site
from feddat.text import normal_text

log = logging.getLogger(__name__)


class Experiment:
    """One run.

    Attributes:
        config: as given, with paths made absolute and the precision that ``auto`` means on this machine.
        settings: the same with the method's variant filled in: what is run.
        folder: the run's folder.
        clients: folder of the clients' personal states.
        seal_key: of the one client whose states they are; ``None``: each has its own beside its states.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Take a configuration; nothing is loaded or written yet, but a model of the Hub is fetched and pinned.

        Raises:
            ConfigError: the method is unknown.
            ModelError: the Hub does not have the model, or cannot be reached.
        """
        self.config = _portable(config)
        self.settings = resolve(self.config)
        self.folder = RunFolder(folder or config.run_dir)
        self.clients = self.folder.clients
        self.seal_key: Path | None = None

    @classmethod
    def load(cls, path: Path | str | None = None, *overrides: str, **values: Any) -> Experiment:
        """Return the experiment that a YAML file describes, with ``key=value`` overrides; see :func:`load_config`.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        return cls(load_config(path, list(overrides), **values))

    @classmethod
    def open(cls, folder: Path | str, site: Path | None = None, device: str | None = None) -> Experiment:
        """Return the experiment that a run folder belongs to.

        Args:
            folder: the run's, or on a client's machine a copy of the server's.
            site: that client's own settings: its data, its model and its state are then where they say.
            device: instead of the run's.

        Raises:
            ExperimentError: it is not a run folder.
            ConfigError: the client's settings cannot be used.
        """
        folder = Path(folder)
        experiment = cls(RunFolder(folder).read_config(), folder)
        if site is not None:
            own = read_site(site)
            experiment.settings = own.applied(experiment.settings)
            run = experiment.folder.run_id()
            experiment.clients, experiment.seal_key = own.store(run), own.seal_key(run)
        if device is not None:
            experiment.settings = experiment.settings.model_copy(update={"device": device})
        return experiment

    def run(
        self,
        progress: Progress | None = None,
        resume: bool = False,
        overwrite: bool = False,
        jobs: int | None = None,
        accept_changes: bool = False,
        beside: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run all rounds, write the run folder and return the summary.

        A script that calls this with ``jobs`` (or ``runtime.jobs``) needs the usual ``if __name__ == "__main__":``.

        Args:
            progress: receives events, see :class:`~feddat.experiment.single.events.Announcer`.
            resume: go on from the last checkpoint of the folder, if there is one. The numbers are the same to the last
                bit as those of a run never interrupted. A finished run returns its summary.
            overwrite: replace what the folder holds, if it is a run.
            jobs: instead of ``runtime.jobs``.
            accept_changes: go on though model or data were exchanged since the last checkpoint; the summary says so.
            beside: short hashes of a finished run that this one is to be compared with (:mod:`.world`).

        Raises:
            ConfigError: a setting cannot be used.
            ModelError: the model cannot be used.
            DataError: data cannot be read, or a split is empty.
            ExperimentError: the folder is taken, model or data are not those of the last checkpoint or of ``beside``,
                the disk refuses, or no client can do its part.
        """

        def begin(announcer: Announcer) -> Callable[[float], dict[str, Any]]:
            accepted = self._let_world_speak(overwrite, accept_changes)
            here = load_federation(self.settings, self.folder.clients)
            check_sites(here)
            if accept_changes and not overwrite:
                for participant in here.participants.values():
                    participant.store.accept()
            names, world = list(here.participants), whole_world(here)
            if other := other_than(beside, world):
                raise ExperimentError(
                    f"run {self.folder.path}: finished runs that it is to be compared with had other "
                    f"{' and '.join(other)}; put back what was there, or do all of them anew (--overwrite)"
                )
            changes = [] if overwrite else accepted + check_world(self.folder, self.config, world, accept_changes)
            service = Service(self.config, self.folder, here.foundation, names, announcer, 0.0, resume, world, changes)
            count = jobs or choose_jobs(self.settings, here)
            notes = here.notes

            def rounds(started: float) -> dict[str, Any]:
                tell_notes(notes, announcer)
                if count == 1:
                    app = make_client_app(lambda context, run: here.site(client_name(context)))
                    return service.run(InProcessGrid(app, names), started, list(here.data), lambda: here)
                process = ClientProcess(self.settings, self.folder.clients)
                with closing(WorkerGrid(process, names, count)) as grid, single_thread(self.settings):
                    return service.run(grid, started, list(here.data), lambda: here)

            return rounds

        return self._around(begin, progress, resume, overwrite)

    def serve(
        self,
        grid: Grid,
        progress: Progress | None = None,
        resume: bool = False,
        overwrite: bool = False,
        clients_here: bool = False,
        accept_changes: bool = False,
    ) -> dict[str, Any]:
        """Be the server of a run whose clients other processes run; else as :meth:`run`.

        Args:
            grid: carries the messages.
            progress: as for :meth:`run`.
            resume: as for :meth:`run`.
            overwrite: as for :meth:`run`.
            clients_here: all clients' data is on this machine, and their states in the run's folder: show some of
                their answers when the run is done.
            accept_changes: as for :meth:`run`, of the model alone: clients see to their data themselves.
        """

        def begin(announcer: Announcer) -> Callable[[float], dict[str, Any]]:
            accepted = self._let_world_speak(overwrite, accept_changes)
            foundation, names = load_foundation(self.settings), participant_names(self.settings)
            world = model_world(foundation)
            changes = [] if overwrite else accepted + check_world(self.folder, self.config, world, accept_changes)
            wait = self.settings.server.wait
            runtime = self.settings.runtime
            admitted = admission(runtime.server if runtime.kind == "deployment" else None)
            service = Service(
                *(self.config, self.folder, foundation, names, announcer, wait, resume, world, changes), admitted
            )
            federation = partial(load_federation, self.settings, self.folder.clients) if clients_here else None
            known = [] if names == [CENTRAL] else names
            return lambda started: service.run(grid, started, known, federation)

        return self._around(begin, progress, resume, overwrite)

    def _around(
        self,
        begin: Callable[[Announcer], Callable[[float], dict[str, Any]]],
        progress: Progress | None,
        resume: bool,
        overwrite: bool,
    ) -> dict[str, Any]:
        """Do what every run does before its rounds and after them."""
        started = time.perf_counter()
        with self.folder.locked():
            self.folder.check(self.config, resume=resume, overwrite=overwrite)
            announcer = Announcer(self.folder, self.settings.rounds, progress)
            summary = None if overwrite else self.folder.summary()
            if summary is None:
                check_trackers(self.config)
                _say_what_model(self.config)
                rounds = begin(announcer)  # what cannot be used is refused before the folder is touched
                self.config = self._with_weights()
                self.folder.begin(self.config, overwrite=overwrite)
                with announcer.recording(self.config):
                    summary = rounds(started)
            if not self.folder.report_file.is_file():
                from feddat.report.page import write_report  # plots take a second to import

                with disk_errors(self.folder.path):
                    write_report(self.folder.path)
        announcer.tell(event="done", round=self.settings.rounds, summary=summary)
        return summary

    def _with_weights(self) -> RunConfig:
        """Return the configuration with the hash of the weights that are loaded, for whoever resumes the run."""
        found = load_foundation(self.settings).model["weights"]
        if not checks_weights(self.settings):
            return self.config
        return self.config.model_copy(update={"model_weights": found})

    def _let_world_speak(self, overwrite: bool, accept_changes: bool) -> list[str]:
        """Forget the hash of weights that was noted when the run started, where its checkpoints say more of them.

        Returns:
            What of the checkpoints was altered, and is accepted.
        """
        checkpoints = Checkpoints(self.folder.checkpoints, config_hash(self.config))
        try:
            accepted = ["checkpoints"] if accept_changes and not overwrite and checkpoints.accept() else []
        except CheckpointError as error:
            raise ExperimentError(f"run {self.folder.path}: {error}") from None
        noted = checkpoints.world()[1]
        if accept_changes or (noted and not overwrite):
            self.config = self.config.model_copy(update={"model_weights": None})
            self.settings = self.settings.model_copy(update={"model_weights": None})
        return accepted

    def predict(
        self, client: str, examples: Sequence[Example], k: int = 3, accept_changes: bool = False
    ) -> list[list[tuple[str, float]]]:
        """Return each example's ``k`` likeliest answers with probabilities, as the client's trained model gives them.

        Raises:
            ExperimentError: the run has no checkpoint yet, or no such client; or the model has been exchanged since,
                and that is not to be accepted.
        """
        client = normal_text(client)
        federation, state = self._latest(accept_changes)
        _check_client(federation, client)
        return predict(federation, state, client, examples, k)

    def answerer(self, client: str | None = None, accept_changes: bool = False) -> Answerer:
        """Return a client's trained model, ready to answer; until another run of this process loads its model.

        Raises:
            ExperimentError: as for :meth:`predict`; or there are several clients and none is named.
        """
        federation, state = self._latest(accept_changes)
        if client is None and len(federation.data) > 1:
            raise ExperimentError(f"run folder {self.folder.path}: give --client, one of {', '.join(federation.data)}")
        client = next(iter(federation.data)) if client is None else normal_text(client)
        _check_client(federation, client)
        owner = federation.owner(client)
        final, extras = answering_state(federation.foundation, state, owner.name)
        answering = owner.answering(state.shared or None, state.round, final, extras)
        return Answerer(answering, owner.members[client], owner.routes(final)[0])

    def export(
        self,
        folder: Path | str,
        client: str | None = None,
        route: str | None = None,
        options: Options = Options(),
        accept_changes: bool = False,
    ) -> Path:
        """Write a trained model into a folder of its own, and return it: see :mod:`feddat.experiment.exports.folder`.

        Args:
            folder: to write.
            client: whose model; default: nobody's, the adapter that all have in common, without a head.
            route: that it answers on; default: the method's own.
            options: how it is written.
            accept_changes: export though the model has been exchanged since the last checkpoint.

        Raises:
            ExperimentError: the run has no checkpoint yet; or the model has been exchanged since, and that is not to
                be accepted.
            ExportError: the folder is taken, or there is no such model, or it cannot be had in this form.
        """
        if client is None:
            self._let_world_speak(False, accept_changes)
            foundation = load_foundation(self.settings)
            state = self._latest_state(foundation, accept_changes)
            trained = shared_model(foundation, state, route)
        else:
            client = normal_text(client)
            federation, state = self._latest(accept_changes)
            foundation, trained = federation.foundation, client_model(federation, state, client, route)
        origin = Origin(self.config, state.round, self.folder.summary(), client)
        return export(Path(folder), foundation, trained, origin, options)

    def evaluate(self, split: str, accept_changes: bool = False) -> dict[str, dict[str, float]]:
        """Return every client's scores on ``train``, ``validation`` or ``test`` after the last round done.

        Returns:
            Client -> route -> percent; methods with one route call it ``score``. No entry for a client that has no
            examples in the split.

        Raises:
            ExperimentError: the run has no checkpoint yet; or the model has been exchanged since, and that is not to
                be accepted.
        """
        return evaluate(*self._latest(accept_changes), split)

    def _latest(self, accept_changes: bool = False) -> tuple[Federation, ServerState]:
        self._let_world_speak(False, accept_changes)
        federation = load_federation(self.settings, self.clients, self.seal_key)
        return federation, self._latest_state(federation.foundation, accept_changes)

    def _latest_state(self, foundation: Foundation, accept_changes: bool) -> ServerState:
        check_world(self.folder, self.config, model_world(foundation), accept_changes, asked=True)
        try:
            state = Checkpoints(self.folder.checkpoints, config_hash(self.config)).latest(elsewhere=True)
        except CheckpointError as error:
            raise ExperimentError(f"run {self.folder.path}: {error}") from None
        if state is None:
            raise ExperimentError(f"run folder {self.folder.path}: no checkpoint yet")
        return state


def _check_client(federation: Federation, client: str) -> None:
    if client not in federation.data:
        raise ExperimentError(f"client {client!r}: not in this run; clients are {', '.join(federation.data)}")


def pinned(config: RunConfig) -> RunConfig:
    """Return a configuration whose names on the Hub stand for one commit each, wherever and whenever it is run.

    Raises:
        ModelError: a model cannot be had.
        DataError: a dataset cannot be had.
    """
    changes: dict[str, Any] = {}
    if config.model not in list_models():
        changes["model"] = pin_model(config.model)
    if config.benchmark is not None and config.benchmark in MEDICAL:
        changes["revisions"] = pin_revisions(config.benchmark, config.revisions)
    if config.clients is not None:
        changes["clients"] = {name: pin_data(spec) for name, spec in config.clients.items()}
    return config.model_copy(update=changes)


def _portable(config: RunConfig) -> RunConfig:
    """Return the configuration with names, paths and a precision that mean the same wherever the run is resumed."""
    config = pinned(config)
    model = Path(config.model).expanduser()
    changes: dict[str, Any] = {}
    if config.model not in list_models() and model.is_dir():
        changes["model"] = str(model.resolve())
    if config.benchmark is not None and config.benchmark not in list_benchmarks() and Path(config.benchmark).is_dir():
        changes["benchmark"] = str(Path(config.benchmark).resolve())
    for key in ("root", "data_cache"):
        if (path := getattr(config, key)) is not None:
            changes[key] = path.expanduser().resolve()
    if config.clients is not None:
        # A client may name the run's model, which is one for all.
        changes["clients"] = {name: _portable_client(spec) for name, spec in config.clients.items()}
    if config.runtime.server is not None:
        changes["runtime"] = config.runtime.model_copy(update={"server": config.runtime.server.expanduser().resolve()})
    precision = resolve_precision(config.train.precision, config.device)
    starts = {key: getattr(config.adapter, key) for key in ("start", "start_local")}
    absolute = {key: path.expanduser().resolve() for key, path in starts.items() if path is not None}
    changes["adapter"] = config.adapter.model_copy(update=absolute)
    changes["train"] = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update=changes)


def _portable_client(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's specification with absolute paths."""
    # With a format, train, validation and test are names of its splits.
    paths = ("root",) if spec.get("format") else ("train", "validation", "test", "images")
    found = {key: value for key, value in spec.items() if key != "model"}
    for key in paths:
        if found.get(key) and data_address(found[key], spec.get("format")) is None:
            found[key] = str(Path(found[key]).resolve())
    return found


def _say_what_model(config: RunConfig) -> None:
    """Say what a bundled model is good for, where it is given something else."""
    if config.model in list_models() and not str(config.benchmark).startswith("mini"):
        log.warning(
            "model %s knows the generated pictures of the mini federations and nothing else; for real ones give a real "
            "model, for example model=%s (`feddat models list`)",
            config.model,
            EXAMPLE,
        )
