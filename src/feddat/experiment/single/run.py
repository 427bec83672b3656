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
from feddat.config import ConfigError, RunConfig, load_config
from feddat.example import Example
from feddat.experiment.exports.answerer import Answerer
from feddat.experiment.exports.card import Origin
from feddat.experiment.exports.write import Options, client_model, export, shared_model
from feddat.experiment.single.client_process import ClientProcess, choose_jobs, single_thread
from feddat.experiment.single.deciding import config_hash
from feddat.experiment.single.events import Announcer, Progress
from feddat.experiment.single.federation import CENTRAL, Federation, check_sites, load_federation, participant_names
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.experiment.single.foundation import Foundation, answering_state, checks_weights, load_foundation
from feddat.experiment.single.methods import check_variant, resolve
from feddat.experiment.single.portable import portable
from feddat.experiment.single.rounds import Service, evaluate, predict, tell_notes
from feddat.experiment.single.trackers import check_trackers
from feddat.experiment.single.world import check_world, model_world, other_than, whole_world
from feddat.models.catalog import list_models
from feddat.models.known import EXAMPLE
from feddat.site import read_site
from feddat.text import normal_text

log = logging.getLogger(__name__)


class Experiment:
    """One run.

    Attributes:
        config: configuration as given, with absolute paths and with ``auto`` precision resolved for this machine.
        settings: the same with the settings of the method's variant applied: the settings that are run.
        folder: folder of the run.
        clients: folder of the clients' personal states.
        seal_key: key file of the only client on this machine; ``None`` if each client has its own beside its states.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Prepare a run; load and write nothing, but fetch and pin a model from the Hub.

        Raises:
            ConfigError: the method is unknown, or replaces a setting that was asked for.
            ModelError: the Hub does not have the model or cannot be reached.
        """
        if folder is None:
            check_variant(config)
        self.config = portable(config)
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
        """Return the experiment of a run folder.

        Args:
            folder: folder of the run, or on a client's machine a copy of the server's.
            site: file of that client's own settings, which then name its data, its model and its state.
            device: replaces the run's device.

        Raises:
            ExperimentError: the folder is not a run folder.
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
            resume: continue from the last checkpoint in the folder, if there is one. The numbers equal those of an
                uninterrupted run to the last bit. A finished run returns its summary.
            overwrite: replace the content of the folder, if it is a run.
            jobs: replaces ``runtime.jobs``.
            accept_changes: continue even if model or data were exchanged since the last checkpoint, and note it in the
                summary.
            beside: short hashes of a finished run to compare this run with (:mod:`.world`).

        Raises:
            ConfigError: a setting cannot be used.
            ModelError: the model cannot be used.
            DataError: data cannot be read, or a split is empty.
            ExperimentError: the folder is not free, model or data differ from those of the last checkpoint or of
                ``beside``, a file cannot be written, or no client can do its part.
        """

        def begin(announcer: Announcer) -> Callable[[float], dict[str, Any]]:
            accepted = self._accept_changes(overwrite, accept_changes)
            here = load_federation(self.settings, self.folder.clients)
            check_sites(here)
            if accept_changes and not overwrite:
                for participant in here.participants.values():
                    participant.store.accept()
            names, world = list(here.participants), whole_world(here)
            if other := other_than(beside, world):
                raise ExperimentError(
                    f"run {self.folder.path}: the finished runs to compare it with had other "
                    f"{' and '.join(other)}; restore the original, or repeat all runs (--overwrite)"
                )
            changes = [] if overwrite else accepted + check_world(self.folder, self.config, world, accept_changes)
            service = Service(
                config=self.config,
                folder=self.folder,
                foundation=here.foundation,
                names=names,
                announcer=announcer,
                wait=0.0,
                resumes=resume,
                world=world,
                changes=changes,
            )
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
        """Act as the server of a run whose clients are other processes; otherwise like :meth:`run`.

        Args:
            grid: carries the messages.
            progress: see :meth:`run`.
            resume: see :meth:`run`.
            overwrite: see :meth:`run`.
            clients_here: all clients' data is on this machine, and their states are in the run's folder; show some of
                their answers when the run is finished.
            accept_changes: see :meth:`run`; this covers only the model, since clients check their data themselves.
        """

        def begin(announcer: Announcer) -> Callable[[float], dict[str, Any]]:
            accepted = self._accept_changes(overwrite, accept_changes)
            foundation, names = load_foundation(self.settings), participant_names(self.settings)
            world = model_world(foundation)
            changes = [] if overwrite else accepted + check_world(self.folder, self.config, world, accept_changes)
            runtime = self.settings.runtime
            service = Service(
                config=self.config,
                folder=self.folder,
                foundation=foundation,
                names=names,
                announcer=announcer,
                wait=self.settings.server.wait,
                resumes=resume,
                world=world,
                changes=changes,
                admitted=admission(runtime.server if runtime.kind == "deployment" else None),
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
        """Do everything that every run does before and after its rounds."""
        started = time.perf_counter()
        with self.folder.locked():
            self.folder.check(self.config, resume=resume, overwrite=overwrite)
            announcer = Announcer(self.folder, self.settings.rounds, progress)
            summary = None if overwrite else self.folder.summary()
            if summary is None:
                check_trackers(self.config)
                _say_what_model(self.config)
                rounds = begin(announcer)  # refuse unusable settings before touching the folder
                self.config = self._with_weights()
                self.folder.begin(self.config, overwrite=overwrite)
                with announcer.recording(self.config):
                    summary = rounds(started)
            if not self.folder.report_file.is_file():
                from feddat.report.page import write_report  # importing plots takes a second

                with disk_errors(self.folder.path):
                    write_report(self.folder.path)
        announcer.tell(event="done", round=self.settings.rounds, summary=summary)
        return summary

    def _with_weights(self) -> RunConfig:
        """Return the configuration with the hash of the loaded weights, for resuming the run."""
        found = load_foundation(self.settings).model["weights"]
        if not checks_weights(self.settings):
            return self.config
        return self.config.model_copy(update={"model_weights": found})

    def _accept_changes(self, overwrite: bool, accept_changes: bool) -> list[str]:
        """Seal altered checkpoints again if changes are accepted, and drop a hash of the weights that no longer counts.

        The configuration's hash counts only until the checkpoints have hashes of their own.

        Returns:
            ``["checkpoints"]`` if checkpoints were altered and this is accepted, else an empty list.

        Raises:
            ExperimentError: a checkpoint cannot be written.
        """
        accepted = []
        if accept_changes and not overwrite:
            try:
                accepted = ["checkpoints"] if self._checkpoints().accept() else []
            except CheckpointError as error:
                raise ExperimentError(f"run {self.folder.path}: {error}") from None
        noted = self._checkpoints().world()[1]
        if accept_changes or (noted and not overwrite):
            self.config = self.config.model_copy(update={"model_weights": None})
            self.settings = self.settings.model_copy(update={"model_weights": None})
        return accepted

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder.checkpoints, config_hash(self.config))

    def predict(
        self, client: str, examples: Sequence[Example], k: int = 3, accept_changes: bool = False
    ) -> list[list[tuple[str, float]]]:
        """Return the ``k`` most likely answers to each example with probabilities, from the client's trained model.

        Raises:
            ExperimentError: the run has no checkpoint yet or no such client, or the model has been exchanged since the
                last checkpoint and ``accept_changes`` is off.
        """
        client = normal_text(client)
        federation, state = self._latest(accept_changes)
        _check_client(federation, client)
        return predict(federation, state, client, examples, k)

    def answerer(self, client: str | None = None, accept_changes: bool = False) -> Answerer:
        """Return a client's trained model, ready to answer; valid until another run in this process loads a model.

        Raises:
            ExperimentError: see :meth:`predict`; or there are several clients and none is named.
        """
        federation, state = self._latest(accept_changes)
        if client is None and len(federation.data) > 1:
            raise ExperimentError(f"run folder {self.folder.path}: give --client, one of {', '.join(federation.data)}")
        client = next(iter(federation.data)) if client is None else normal_text(client)
        _check_client(federation, client)
        owner = federation.owner(client)
        received = answering_state(federation.foundation, state, owner.name)
        return Answerer(owner.answering(received), owner.members[client], owner.routes(received.final)[0])

    def export(
        self,
        folder: Path | str,
        client: str | None = None,
        route: str | None = None,
        options: Options = Options(),
        accept_changes: bool = False,
    ) -> Path:
        """Export a trained model to a folder and return the folder, see :mod:`feddat.experiment.exports.folder`.

        Args:
            folder: folder to write.
            client: client whose model to export; default: only the shared adapter, without a head.
            route: route on which the model answers; default: the method's own.
            options: form of the export.
            accept_changes: export even if the model has been exchanged since the last checkpoint.

        Raises:
            ExperimentError: the run has no checkpoint yet, or the model has been exchanged since the last checkpoint
                and ``accept_changes`` is off.
            ExportError: the folder is not free, there is no such model, or it cannot be exported in this form.
        """
        if client is None:
            self._accept_changes(False, accept_changes)
            foundation = load_foundation(self.settings)
            state = self._latest_state(foundation, accept_changes)
            trained = shared_model(foundation, state, route)
        else:
            client = normal_text(client)
            federation, state = self._latest(accept_changes)
            foundation, trained = federation.foundation, client_model(federation, state, client, route)
        origin = Origin(self.config, state.round, self.folder.summary(), client)
        return export(Path(folder), foundation, trained, origin, options)

    def evaluate(
        self, split: str, accept_changes: bool = False, answer: str | None = None
    ) -> dict[str, dict[str, float]]:
        """Return every client's scores on ``train``, ``validation`` or ``test`` after the last finished round.

        Args:
            split: the examples to score.
            accept_changes: score even if the model has been exchanged since the last checkpoint.
            answer: a value of ``algorithm.answer`` to use instead of the run's own; training does not depend on it.

        Returns:
            Client -> route -> percent; the only route of a method is called ``score``. Clients without examples in the
            split have no entry.

        Raises:
            ExperimentError: the run has no checkpoint yet, or the model has been exchanged since the last checkpoint
                and ``accept_changes`` is off.
            ConfigError: the run's method cannot answer in this way.
        """
        settings = self.settings
        if answer is not None:
            if settings.method != "feddat":
                raise ConfigError(f"answer: {answer}, but only method feddat has this choice, not {settings.method}")
            settings = settings.updated({"algorithm.answer": answer})
        return evaluate(*self._latest(accept_changes, settings), split)

    def _latest(
        self, accept_changes: bool = False, settings: RunConfig | None = None
    ) -> tuple[Federation, ServerState]:
        self._accept_changes(False, accept_changes)
        federation = load_federation(settings or self.settings, self.clients, self.seal_key)
        return federation, self._latest_state(federation.foundation, accept_changes)

    def _latest_state(self, foundation: Foundation, accept_changes: bool) -> ServerState:
        check_world(self.folder, self.config, model_world(foundation), accept_changes, asked=True)
        try:
            state = self._checkpoints().latest(elsewhere=True)
        except CheckpointError as error:
            raise ExperimentError(f"run {self.folder.path}: {error}") from None
        if state is None:
            raise ExperimentError(f"run folder {self.folder.path}: no checkpoint yet")
        return state


def _check_client(federation: Federation, client: str) -> None:
    if client not in federation.data:
        raise ExperimentError(f"client {client!r}: not in this run; clients are {', '.join(federation.data)}")


def _say_what_model(config: RunConfig) -> None:
    """Warn if a bundled model is used on data that it was not made for."""
    if config.model in list_models() and not str(config.benchmark).startswith("mini"):
        log.warning(
            "model %s knows only the generated pictures of the mini federations; for real pictures, give a real "
            "model, for example model=%s (`feddat models list`)",
            config.model,
            EXAMPLE,
        )
