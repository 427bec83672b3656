"""Comparisons: every method with every seed, in parallel worker processes, and their results."""

from __future__ import annotations

import logging
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.experiment.single.methods import check_variant, resolve
from feddat.experiment.single.portable import pinned
from feddat.experiment.single.run import Experiment
from feddat.experiment.single.world import finished_worlds
from feddat.report.means import all_clients, is_whole
from feddat.workers import cores, run_parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of one comparison: every method with every seed.

    Attributes:
        config: settings of all runs; ``name`` is that of the comparison (default ``compare-BENCHMARK``).
        methods: algorithms and :data:`~feddat.experiment.VARIANTS`.
        seeds: seeds of each method.
        tuning: a result of :func:`~feddat.experiment.grids.tuning.search_each`. Each method runs with its own best
            values; a variant that was not searched for uses those of its algorithm.
    """

    config: RunConfig
    methods: Sequence[str]
    seeds: Sequence[int]
    tuning: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The comparison's folder."""
        return self.config.runs_dir / comparison_name(self.config)

    def runs(self) -> dict[str, RunConfig]:
        """Return the runs by name; see :func:`comparison_runs`."""
        return comparison_runs(self.config, self.methods, self.seeds, self.tuning)


def compare(
    config: RunConfig,
    methods: Sequence[str],
    seeds: Sequence[int],
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    tuning: Mapping[str, Any] | None = None,
    record: RunRecord | None = None,
) -> dict[str, Any]:
    """Run every method with every seed (:class:`Plan`), and write ``comparison.json`` and a report.

    Worker processes compute the runs in ``RUNS_DIR/NAME/METHOD-sSEED``. Finished runs are kept, interrupted runs are
    resumed. A script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        config: see :class:`Plan`.
        methods: see :class:`Plan`.
        seeds: see :class:`Plan`.
        jobs: number of worker processes; default: one per core.
        progress: receives the events of the runs, each with the run's name as ``run``, and ``failure`` if a run fails.
        overwrite: start every run from scratch.
        tuning: see :class:`Plan`.
        record: runs that it contains are not computed, and finished runs are added to it.

    Returns:
        The content of ``comparison.json``: ``runs`` (summaries), ``methods`` (name -> ``mean``, ``std`` over seeds and
        number of the ``runs`` with scores of all clients, and the same by ``clients``), ``failed`` (run -> reason),
        ``name``, ``benchmark``, ``model``, ``seeds``, ``tuning``.

    Raises:
        ConfigError: a method is unknown.
        ExperimentError: no run succeeded; the message says why the first failed.
    """
    return compare_each({"": Plan(config, methods, seeds, tuning)}, jobs, progress, overwrite, record)[""]


def compare_each(
    plans: Mapping[str, Plan],
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> dict[str, dict[str, Any]]:
    """Make several comparisons with one pool of workers, written as by :func:`compare`; return them by label.

    Events name the runs as :func:`all_runs` does. A comparison without a successful run has no ``runs`` and is not
    written.

    Raises:
        ConfigError: a method is unknown.
        ExperimentError: no run of any comparison succeeded; the message says why the first failed.
    """
    plans = {label: replace(plan, config=pinned(plan.config)) for label, plan in plans.items()}
    runs = all_runs(plans)
    results, failures = run_all(runs, jobs, progress, overwrite, record)
    if not results:
        name, reason = next(iter(failures.items()))
        raise ExperimentError(f"comparison {runs[name].runs_dir}: no run succeeded; {name}: {reason}")
    comparisons = {}
    for label, plan in plans.items():
        names = {labelled(label, name): name for name in plan.runs()}
        done = {name: results[key] for key, name in names.items() if key in results}
        failed = {name: failures[key] for key, name in names.items() if key in failures}
        comparisons[label] = _conclude(plan, done, failed)
    return comparisons


def all_runs(plans: Mapping[str, Plan]) -> dict[str, RunConfig]:
    """Return the runs of several comparisons by ``LABEL/METHOD-sSEED``, or ``METHOD-sSEED`` for an empty label.

    All runs of the first seed come first, then those of the second, so that an interrupted grid can still be compared.
    """
    runs = {labelled(label, name): run for label, plan in plans.items() for name, run in plan.runs().items()}
    seeds = list(dict.fromkeys(seed for plan in plans.values() for seed in plan.seeds))
    return dict(sorted(runs.items(), key=lambda item: seeds.index(item[1].seed)))


def labelled(label: str, name: str) -> str:
    """Return the name of a run of one of several comparisons."""
    return f"{label}/{name}" if label else name


def _conclude(plan: Plan, done: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> dict[str, Any]:
    """Write ``comparison.json`` and the report of the finished runs; return the content of the former."""
    methods = {method: [s for s in done.values() if s["method"] == method] for method in dict.fromkeys(plan.methods)}
    clients = all_clients(summary["clients"] for summary in done.values())
    comparison = {
        "name": plan.folder.name,
        "benchmark": plan.config.benchmark,
        "model": plan.config.model,
        "seeds": list(dict.fromkeys(plan.seeds)),
        "runs": list(done.values()),
        "methods": {method: over_seeds(summaries, clients) for method, summaries in methods.items()},
        "failed": dict(failed),
        "tuning": plan.tuning,
    }
    if done:
        RunFolder(plan.folder).write_json(plan.folder / "comparison.json", comparison)
        from feddat.report.page import write_report

        with disk_errors(plan.folder):
            write_report(plan.folder)
    return comparison


def comparison_runs(
    config: RunConfig, methods: Sequence[str], seeds: Sequence[int], tuning: Mapping[str, Any] | None = None
) -> dict[str, RunConfig]:
    """Return the runs of a comparison by name, seed by seed; see :func:`compare`.

    Raises:
        ConfigError: a method is unknown, the runtime is not in-process, or the clients do not share scores.
        ExperimentError: there is no method or no seed.
    """
    if config.runtime.kind != "in-process":
        raise ConfigError(f"runtime: {config.runtime.kind}, but comparisons run in-process; leave out runtime")
    if config.privacy.on:  # a private run shares no scores; it is scored where the data is
        config = config.updated({"share_metrics": "none"})
    elif config.share_metrics != "scores":
        raise ConfigError(f"share_metrics: {config.share_metrics}, but comparisons need scores; leave it out")
    if config.runtime.jobs not in (1, "auto"):
        raise ConfigError(
            f"runtime.jobs: {config.runtime.jobs}, but the runs of a comparison are parallel already; leave it out"
        )
    config = config.updated({"runtime.jobs": 1})
    name = comparison_name(config)
    runs: dict[str, RunConfig] = {}
    for seed in seeds:
        for method in methods:
            changes = {"method": method, "seed": seed, "runs_dir": config.runs_dir / name, "name": f"{method}-s{seed}"}
            run = config.model_copy(update=changes)
            algorithm = resolve(run).method
            if tuning is not None:
                run = run.updated(tuning["best"].get(method) or tuning["best"][algorithm])
            check_variant(run)
            runs[run.run_name] = run
    if not runs:
        raise ExperimentError("comparison: give at least one method and one seed")
    return runs


def comparison_name(config: RunConfig) -> str:
    """Return the name of the comparison's folder in ``runs_dir``."""
    return config.name or f"compare-{config.source_name}"


def run_all(
    runs: Mapping[str, RunConfig],
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    record: RunRecord | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Compute runs in worker processes, as :func:`compare` does; return summaries and reasons of failure by run.

    A run in which no client has a score counts as failed.
    """
    tell = progress or _log_failures
    recorded = {name: record.summary(run) if record is not None else None for name, run in runs.items()}
    done = {name: summary for name, summary in recorded.items() if summary is not None}
    taken = {name: reason for name, run in runs.items() if name not in done and (reason := _taken(run, overwrite))}
    for name, reason in taken.items():
        tell({"run": name, "event": "failure", "reason": reason})
    beside = {} if overwrite else finished_worlds(runs)
    tasks = {
        name: _Task(run, overwrite, record is not None, beside.get(name))
        for name, run in runs.items()
        if name not in done and name not in taken
    }

    def hear(name: str, event: dict[str, Any]) -> None:
        if event["event"] == "measured":
            assert record is not None
            if event["summary"]["clients"]:
                record.add(runs[name], event["summary"], RunFolder(runs[name].run_dir))
        else:
            tell({"run": name} | event)

    found, failures = run_parallel(_run_one, tasks, min(jobs or cores(), max(1, len(tasks))), hear)
    summaries = {name: done.get(name) or found[name] for name in runs if name in done or name in found}
    unscored = {name: _UNSCORED for name, summary in summaries.items() if not summary["clients"]}
    for name, reason in unscored.items():
        tell({"run": name, "event": "failure", "reason": reason})
    return {n: s for n, s in summaries.items() if n not in unscored}, taken | failures | unscored


#: Why a run in which no client has a score counts as failed.
_UNSCORED = "no client has a score; missing and not_shared in its summary.json name them, --overwrite repeats the run"


def _taken(run: RunConfig, overwrite: bool) -> str | None:
    """Return why a run cannot use its folder, as far as this shows before a process starts for it."""
    if not run.run_dir.is_dir():
        return None
    experiment = Experiment(run)
    try:
        experiment.folder.check(experiment.config, resume=True, overwrite=overwrite)
        if not overwrite:
            experiment.folder.summary()
    except ExperimentError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class _Task:
    """One run in a worker process.

    Attributes:
        config: settings of the run.
        overwrite: replace the content of its folder.
        measured: also score the training data, for a record.
        beside: short hashes of a finished run to compare it with.
    """

    config: RunConfig
    overwrite: bool
    measured: bool
    beside: Mapping[str, str] | None


def _log_failures(event: Mapping[str, Any]) -> None:
    if event["event"] == "failure":
        log.warning("run %s failed: %s", event["run"], event["reason"])


def over_seeds(summaries: Sequence[Mapping[str, Any]], clients: Sequence[str]) -> dict[str, Any]:
    """Return mean and sample standard deviation over the runs of one method, for the clients' mean and each client.

    The mean counts only runs with scores of all ``clients``.
    """
    own: dict[str, list[float]] = {}
    for summary in summaries:
        for client, scores in summary["clients"].items():
            own.setdefault(client, []).append(next(iter(scores.values())))
    each = {client: _spread(values) for client, values in own.items()}
    whole = [summary["mean"] for summary in summaries if is_whole(summary["clients"], clients)]
    return _spread(whole) | {"clients": each}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "runs": len(values),
    }


def _run_one(task: _Task, emit: Progress) -> dict[str, Any]:
    experiment = Experiment(task.config)
    summary = experiment.run(emit, resume=not task.overwrite, overwrite=task.overwrite, beside=task.beside)
    if task.measured:
        routes: dict[str, list[float]] = defaultdict(list)
        for scores in experiment.evaluate("train").values():
            for route, score in scores.items():
                routes[route].append(score)
        training = {route: statistics.fmean(scores) for route, scores in routes.items()}
        emit({"event": "measured", "summary": summary | {"training_scores": training}})
    return summary
