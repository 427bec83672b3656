"""Newcomers: how well a client does that joins after the training, with the federation's adapter and a few epochs.

Each client in turn is left out of a federation. Afterwards it starts from that federation's global adapter and trains
alone for a few epochs. A method without a global adapter starts from nothing; it shows what the adapter is worth.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.config import ConfigError, RunConfig
from feddat.experiment.exports.folder import ExportError, is_export
from feddat.experiment.grids.comparison import comparison_runs, labelled, run_all
from feddat.experiment.single.client_data import load_clients
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.experiment.single.methods import resolve, title
from feddat.experiment.single.run import Experiment
from feddat.report import newcomers as report
from feddat.report.means import means
from feddat.report.tables import own_scores


@dataclass(frozen=True, slots=True)
class Newcomers:
    """The runs: one federation without each newcomer, and one run of each newcomer alone.

    Attributes:
        config: settings of all federations; ``name`` is that of the folder (default ``newcomers-BENCHMARK``).
        methods: as in a comparison.
        seeds: of each method.
        epochs: local epochs of a newcomer; methods with twice the epochs take twice as many.
        clients: newcomers.
        tuning: see :class:`~feddat.experiment.grids.comparison.Plan`.
        train_as: method with which newcomers train; default: each federation's own.
    """

    config: RunConfig
    methods: Sequence[str]
    seeds: Sequence[int]
    epochs: int
    clients: Sequence[str]
    tuning: Mapping[str, Any] | None = None
    train_as: str | None = None

    @classmethod
    def plan(
        cls,
        config: RunConfig,
        methods: Sequence[str],
        seeds: Sequence[int],
        epochs: int = 5,
        clients: Sequence[str] = (),
        tuning: Mapping[str, Any] | None = None,
        train_as: str | None = None,
    ) -> Newcomers:
        """Return the plan; ``clients`` defaults to all clients of the data, each in its turn.

        Raises:
            ConfigError: there is no such client, or fewer than two stay; clients are split; or a method is unknown or
                pools the data.
        """
        if config.split_clients > 1:
            raise ConfigError(f"split_clients: {config.split_clients}, but newcomers are whole clients; leave it out")
        names = [client.name for client in load_clients(config)]
        if unknown := [name for name in clients if name not in names]:
            raise ConfigError(f"newcomer {unknown[0]!r}: expected some of {', '.join(names)}")
        if len(names) < 3:
            raise ConfigError(f"newcomers: {len(names)} clients, expected at least 3, so that two can federate")
        for method in [*methods, *filter(None, [train_as])]:
            if _algorithm(config, method).centralised:
                raise ConfigError(f"method: {method} pools the data of all clients; a newcomer's would be among them")
        if train_as and not _algorithm(config, train_as).communicates:
            raise ConfigError(
                f"newcomers: {train_as} has no global adapter, so newcomers cannot start from one with it"
            )
        named = config.updated({"name": config.name or f"newcomers-{config.source_name}"})
        plan = cls(named, methods, seeds, epochs, list(clients) or names, tuning, train_as)
        plan.federations(), plan.alone()  # an unknown method is an error before the first run
        return plan

    @property
    def folder(self) -> Path:
        """The folder of all runs."""
        return self.config.run_dir

    def federations(self) -> dict[str, RunConfig]:
        """Return the runs without a newcomer, by ``without-CLIENT/METHOD-sSEED``."""
        names = [client.name for client in load_clients(self.config)]
        found = {}
        for client in self.clients:
            label, others = f"without-{client}", [name for name in names if name != client]
            for name, run in self._runs(label, {"only_clients": others}).items():
                if _has_global(run):
                    found[labelled(label, name)] = run
        return found

    def alone(self) -> dict[str, RunConfig]:
        """Return the runs of newcomers, by ``CLIENT/METHOD-sSEED``, where the method is the federation's."""
        found = {}
        for client in self.clients:
            changes = {"only_clients": [client], "rounds": self.epochs, "train.epochs": 1, "train.steps": None}
            place = f"{client}-as-{self.train_as}" if self.train_as else client
            for name, run in self._runs(place, changes).items():
                own: dict[str, Any] = {"method": self.train_as or run.method}
                if _has_global(run):
                    own["adapter.start"] = self.start(client, name)
                found[labelled(client, name)] = run.updated(own)
        return found

    def start(self, client: str, name: str) -> Path:
        """Return the folder of the global adapter of the federation without ``client``."""
        return self.folder / "start" / client / name

    def _runs(self, label: str, changes: Mapping[str, Any]) -> dict[str, RunConfig]:
        place = {"runs_dir": self.folder, "name": label}
        return comparison_runs(self.config.updated({**changes, **place}), self.methods, self.seeds, self.tuning)


def _algorithm(config: RunConfig, method: str) -> Algorithm:
    return ALGORITHMS[resolve(config.model_copy(update={"method": method})).method]


def _has_global(config: RunConfig) -> bool:
    return _algorithm(config, config.method).communicates


def run_newcomers(
    plan: Newcomers, jobs: int | None = None, progress: Progress | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Run a plan, and write ``newcomers.json`` and its table; finished runs are kept, interrupted ones are resumed.

    Returns:
        The content of ``newcomers.json``: ``benchmark``, ``model``, ``epochs``, ``train_as``, ``failed`` (run ->
        reason), and ``runs``: a summary for each method and seed, whose clients are the newcomers.

    Raises:
        ExperimentError: no newcomer could be scored; the message says why the first failed.
    """
    before, after = plan.federations(), plan.alone()
    done, failed = run_all(before, jobs, progress, overwrite) if before else ({}, {})
    for name, run in before.items():
        if name in done:
            client, _, own = name.removeprefix("without-").rpartition("/")
            try:
                _export(run, plan.start(client, own), overwrite)
            except ExportError as error:  # a method that keeps a part of its adapter at each client, for example
                failed = {**failed, name: str(error)}
    ready = {name: run for name, run in after.items() if run.adapter.start is None or is_export(run.adapter.start)}
    scored, not_scored = run_all(ready, jobs, progress, overwrite) if ready else ({}, {})
    failed = {**failed, **not_scored}
    if not scored:
        name, reason = next(iter(failed.items()))
        raise ExperimentError(f"newcomers {plan.folder}: no run succeeded; {name}: {reason}")
    result = {
        "benchmark": plan.config.benchmark,
        "model": plan.config.model,
        "epochs": plan.epochs,
        "failed": failed,
        "train_as": plan.train_as,
        "runs": _joined(plan, scored),
    }
    RunFolder(plan.folder).write_json(plan.folder / report.FILE, result)
    with disk_errors(plan.folder):
        report.write_newcomers(plan.folder)
    return result


def _export(run: RunConfig, folder: Path, overwrite: bool) -> None:
    if is_export(folder) and not overwrite:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    Experiment(run).export(folder, route="global")


def _joined(plan: Newcomers, scored: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one summary per method and seed of the federations, with the scores of all newcomers.

    Its mean is ``None`` if a newcomer is missing.
    """
    found: list[dict[str, Any]] = []
    for name, run in comparison_runs(plan.config, plan.methods, plan.seeds, plan.tuning).items():
        own = [scored[key] for client in plan.clients if (key := labelled(client, name)) in scored]
        if not own:
            continue
        clients = {client: scores for summary in own for client, scores in summary["clients"].items()}
        found.append(
            {
                **{key: own[0][key] for key in ("model", "parameters") if key in own[0]},
                **{"method": run.method, "title": title(run), "seed": run.seed, "clients": clients},
                "mean": next(iter(means([own_scores({"clients": clients})], plan.clients)), None),
                "missing": [client for client in plan.clients if client not in clients],
            }
        )
    return found
