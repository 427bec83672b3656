"""One run, from its configuration to its summary."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from torch import nn

from feddat.adapters.methods import count_parameters
from feddat.app.checkpoint import CheckpointError, Checkpoints, ServerState
from feddat.app.client import make_client_app
from feddat.app.grid import InProcessGrid
from feddat.app.rules import Rule, make_rule
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy, FederationError, sample_size
from feddat.benchmarks import list_benchmarks
from feddat.config import RunConfig, load_config
from feddat.example import Example
from feddat.experiment.events import Announcer, Progress
from feddat.experiment.federation import Federation, load_federation
from feddat.experiment.folder import ExperimentError, RunFolder, config_hash, disk_errors
from feddat.experiment.methods import resolve
from feddat.experiment.samples import write_samples
from feddat.experiment.trackers import check_trackers
from feddat.models.catalog import list_models
from feddat.precision import resolve_precision


class Experiment:
    """One run.

    Attributes:
        config: as given, with paths made absolute and the precision that ``auto`` means on this machine.
        settings: the same with the method's variant filled in: what is run.
        folder: the run's folder.
    """

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Take a configuration; nothing is loaded or written yet.

        Raises:
            ConfigError: the method is unknown.
        """
        self.config = _portable(config)
        self.settings = resolve(self.config)
        self.folder = RunFolder(folder or config.run_dir)

    @classmethod
    def load(cls, path: Path | str | None = None, *overrides: str, **values: Any) -> Experiment:
        """Return the experiment that a YAML file describes, with ``key=value`` overrides; see :func:`load_config`.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        return cls(load_config(path, list(overrides), **values))

    @classmethod
    def open(cls, folder: Path | str) -> Experiment:
        """Return the experiment that a run folder belongs to.

        Raises:
            ExperimentError: it is not a run folder.
        """
        folder = Path(folder)
        return cls(RunFolder(folder).read_config(), folder)

    def run(self, progress: Progress | None = None, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
        """Run all rounds, write the run folder and return the summary.

        Args:
            progress: receives events, see :class:`~feddat.experiment.events.Announcer`.
            resume: go on from the last checkpoint of the folder, if there is one. The numbers are the same to the last
                bit as those of a run never interrupted. A finished run returns its summary.
            overwrite: replace what the folder holds, if it is a run.

        Raises:
            ConfigError: a setting cannot be used.
            ModelError: the model cannot be used.
            DataError: data cannot be read, or a split is empty.
            ExperimentError: the folder is taken, the disk refuses, or no client can do its part.
        """
        started = time.perf_counter()
        with self.folder.locked():
            self.folder.check(self.config, resume=resume, overwrite=overwrite)
            announcer = Announcer(self.folder, self.settings.rounds, progress)
            summary = None if overwrite else self.folder.summary()
            if summary is None:
                check_trackers(self.config)
                federation = load_federation(self.settings, self.folder.clients)
                rule = self._rule(federation)
                self.folder.begin(self.config, overwrite=overwrite)
                with announcer.recording(self.config):
                    try:
                        state = self._run_rounds(federation, rule, announcer, started)
                    except (FederationError, CheckpointError) as error:
                        raise ExperimentError(f"run {self.folder.path}: {error}") from error
                    summary = self._finish(federation, state)
            if not self.folder.report_file.is_file():
                from feddat.report import write_report  # plots take a second to import

                with disk_errors(self.folder.path):
                    write_report(self.folder.path)
        announcer.tell(event="done", round=self.settings.rounds, summary=summary)
        return summary

    def predict(self, client: str, examples: Sequence[Example], k: int = 3) -> list[list[tuple[str, float]]]:
        """Return each example's ``k`` likeliest answers with probabilities, as the client's trained model gives them.

        Raises:
            ExperimentError: the run has no checkpoint yet, or no such client.
        """
        federation = load_federation(self.settings, self.folder.clients)
        state = self._checkpoints().latest()
        if state is None:
            raise ExperimentError(f"run folder {self.folder.path}: no checkpoint yet")
        if client not in federation.data:
            raise ExperimentError(f"client {client!r}: not in this run; clients are {', '.join(federation.data)}")
        return self._predict(federation, state, client, examples, k)

    def _rule(self, federation: Federation) -> Rule:
        replies = sample_size(self.settings.server.fraction, len(federation.participants))
        return make_rule(self.settings, federation.algorithm, replies)

    def _run_rounds(self, federation: Federation, rule: Rule, announcer: Announcer, started: float) -> ServerState:
        settings = self.settings
        checkpoints = self._checkpoints()
        state = checkpoints.latest() or ServerState(federation.initial_shared())
        self.folder.cut_metrics(state.round)
        announcer.route_name = federation.route_name
        announcer.tell(
            event="start",
            name=self.config.run_name,
            method=self.config.method,
            folder=str(self.folder.path),
            clients=list(federation.data),
            round=state.round,
            parameters=_count(federation),
        )
        strategy = AdapterStrategy(
            seed=settings.seed,
            rule=rule,
            shapes={key: tuple(value.shape) for key, value in state.shared.items()},
            routes=federation.routes(final=False),
            final_routes=federation.routes(final=True),
            fraction=settings.server.fraction,
            weighting=settings.server.weighting,
            wire=settings.wire,
            notify=announcer,
        )
        server = make_server_app(
            strategy,
            state,
            rounds=settings.rounds,
            evaluation=settings.eval,
            save=checkpoints.save,
            notify=announcer,
            started=started,
        )
        members = {name: list(participant.members) for name, participant in federation.participants.items()}
        grid = InProcessGrid(make_client_app(federation.participants.__getitem__, members), list(members))
        server(grid, Context(grid.run.run_id, 0, {}, RecordDict(), {}))
        return state

    def _finish(self, federation: Federation, state: ServerState) -> dict[str, Any]:
        """Write samples and summary, and return the summary."""
        started = time.perf_counter()
        folder, split = self.folder, self.settings.eval.split
        samples: list[dict[str, Any]] = []
        with disk_errors(folder.pictures):
            folder.pictures.mkdir(exist_ok=True)
            for data in federation.data.values():
                task = federation.owner(data.name).members[data.name].task
                samples += write_samples(data, task, split, partial(self._predict, federation, state), folder.pictures)
        folder.write_json(folder.predictions_file, samples)
        state.seconds["other"] += time.perf_counter() - started
        summary = self._summary(federation, state)
        folder.write_json(folder.summary_file, summary)
        return summary

    def _summary(self, federation: Federation, state: ServerState) -> dict[str, Any]:
        """Return the summary, its scores read from the metrics: a resumed run may have scored before."""
        settings = self.settings
        clients: dict[str, dict[str, float]] = {name: {} for name in federation.data}
        for line in self.folder.read_metrics():
            if "score" in line and line["round"] == settings.rounds and line["split"] == settings.eval.split:
                clients[line["client"]][line["route"]] = line["score"]
        scored = {name: scores for name, scores in clients.items() if scores}
        own = federation.route_name(federation.routes(final=True)[0])
        return {
            "method": self.config.method,
            "peft": settings.adapter.peft,
            "model": settings.model,
            "benchmark": settings.benchmark,
            "seed": settings.seed,
            "rounds": settings.rounds,
            "split": settings.eval.split,
            "clients": scored,
            "mean": statistics.fmean(scores[own] for scores in scored.values()),
            "parameters": _count(federation),
            "bytes": {way: sum(kind[way] for kind in state.bytes.values()) for way in ("up", "down")} | state.bytes,
            "seconds": sum(state.seconds.values()),
            "seconds_in": state.seconds,
            "failed": state.failed,
            "refused": state.refused,
            "missing": [name for name in clients if name not in scored],
        }

    def _predict(
        self, federation: Federation, state: ServerState, client: str, examples: Sequence[Example], k: int
    ) -> list[list[tuple[str, float]]]:
        final = state.round == self.settings.rounds
        server = federation.algorithm.server
        extras = None if server is None else server.answers(state.rule)
        owner = federation.owner(client)
        return owner.predict(state.shared or None, state.round, client, examples, k, final=final, extras=extras)

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder.checkpoints, config_hash(self.config))


def _count(federation: Federation) -> dict[str, int]:
    """Return the parameters of one client, with the largest heads: they differ in their number of answers."""
    # One client's heads at a time: of a thousand clients they would not fit.
    largest = nn.ModuleList()
    for owner in federation.participants.values():
        for member in owner.members.values():
            heads = nn.ModuleList(member.heads.values())
            largest = max(largest, heads, key=lambda found: sum(p.numel() for p in found.parameters()))
        owner.release()
    algorithm = federation.algorithm
    return count_parameters(
        federation.adapters,
        trains=algorithm.trains,
        trains_key=algorithm.trains_key,
        shares=algorithm.shares if algorithm.communicates else None,
        head=largest,
    )


def _portable(config: RunConfig) -> RunConfig:
    """Return the configuration with paths and a precision that mean the same wherever the run is resumed."""
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
        changes["clients"] = {name: {key: _absolute_path(key, value) for key, value in spec.items() if key != "model"}
                              for name, spec in config.clients.items()}  # fmt: skip
    precision = resolve_precision(config.train.precision, config.device)
    changes["train"] = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update=changes)


def _absolute_path(key: str, value: Any) -> Any:
    return str(Path(value).resolve()) if value and key in ("train", "validation", "test", "images") else value
