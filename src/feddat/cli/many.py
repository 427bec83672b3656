"""What the commands with many runs share: the display, the record of finished runs, and the search for settings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from feddat.cli.common import Record, fail, out

if TYPE_CHECKING:
    from feddat.config import RunConfig
    from feddat.experiment.grids.record import RunRecord
    from feddat.watching.live import ComparisonDisplay


def tuning(
    configs: Mapping[str, RunConfig],
    methods: list[str],
    tune: str | None,
    jobs: int | None,
    overwrite: bool,
    record: RunRecord | None,
    on: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the settings chosen by an earlier search (a file), or search now (``KEY=V1,V2,...``) and print them."""
    from feddat.experiment import Search, read_tuning
    from feddat.experiment.grids.suites import searched_configs, tune_suite
    from feddat.experiment.grids.tuning import trials
    from feddat.report.methods import method_name

    if tune is None:
        return {}
    if tune.endswith(".json"):
        return dict.fromkeys(configs, read_tuning(Path(tune), methods))
    wanted = Search.parse(tune)
    searched = searched_configs(configs, on)
    runs = trials(searched, methods, wanted)
    with display(runs, f"{len(runs)} runs to choose {wanted.name}", overwrite, record) as shown:
        chosen = tune_suite(configs, methods, wanted, on, jobs, shown, overwrite, record)
    for label, each in searched.items():
        for method, best in chosen[label]["best"].items():
            values = " ".join(f"{key}={value}" for key, value in best.items())
            source = each.benchmark or "own data"
            out.print(f"{source}, {method_name(method)}: {values} of {chosen[label]['scores'][method]}", soft_wrap=True)
    return chosen


def display(
    runs: dict[str, RunConfig], title: str, overwrite: bool, record: RunRecord | None = None
) -> ComparisonDisplay:
    """Return the live display of several runs; those that are finished already are shown as such."""
    from feddat.experiment.single.folder import ExperimentError, RunFolder
    from feddat.experiment.single.methods import title as method_title
    from feddat.watching.live import ComparisonDisplay

    lines = {
        # With several comparisons, a run's name is LABEL/METHOD-sSEED.
        name: (" · ".join(filter(None, (method_title(run), name.rpartition("/")[0]))), run.seed, run.rounds)
        for name, run in runs.items()
    }
    display = ComparisonDisplay(out, title, lines)
    for name, run in runs.items():
        summary = None if record is None else record.summary(run)
        if summary is None and not overwrite:
            with suppress(ExperimentError):  # which becomes the failure of this run alone
                summary = RunFolder(run.run_dir).summary()
        if summary is not None:
            display.finish(name, summary["mean"], before=True)
    return display


def open_record(paths: Record) -> RunRecord | None:
    """Return the record of finished runs in the files of ``--record``; ``None`` without the option."""
    from feddat.experiment.grids.record import RunRecord

    return RunRecord(paths[0], paths[1:]) if paths else None


def fail_for(failed: Mapping[str, str], runs: int) -> None:
    """Exit with an error if some of ``runs`` runs failed."""
    if failed:
        raise typer.Exit(fail(f"{len(failed)} of {runs} runs failed", 1))
