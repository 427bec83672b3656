"""Commands that vary more than the method: a search for settings, studies of one setting, and newcomers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from feddat.cli import many
from feddat.cli.common import (
    METHODS,
    Benchmark,
    Config,
    Jobs,
    Methods,
    Overrides,
    Overwrite,
    Record,
    Seeds,
    Tune,
    interruptible,
    methods_option,
    name_option,
    out,
    print_paths,
    say_loading,
    say_warning,
    settings_of,
    split_names,
    split_seeds,
    warn_without_effect,
)

#: Default methods of `feddat newcomers`.
NEWCOMER_METHODS = "feddat,fedavg,local"


def tune(
    search: Annotated[
        str, typer.Argument(metavar="KEY=V1,V2,...", help="Values to try; 'K1=V,... K2=V,...' is a grid.")
    ],
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Methods = METHODS,
    jobs: Jobs = None,
    name: Annotated[str | None, name_option("compare-BENCHMARK")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write the choice to this file too.")] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Choose settings for each method on validation data, and write tuning.json for --tune of other commands."""
    from feddat.config import ConfigError
    from feddat.experiment.single.folder import RunFolder

    if search.endswith(".json"):
        raise ConfigError(f"tune {search}: expected settings to search, KEY=V1,V2,...; a file holds a finished search")
    settings = settings_of(config, overrides, benchmark, name)
    say_loading()
    from feddat.experiment.grids.comparison import comparison_name

    with interruptible():
        names = split_names(methods)
        chosen = many.tuning({"": settings}, names, search, jobs, overwrite, many.open_record(record))[""]
    folder = RunFolder(settings.runs_dir / comparison_name(settings) / "tuning")
    if to is not None:
        folder.write_json(to, chosen)
    print_paths(folder=folder.path, chosen=to or folder.path / "tuning.json")


def study(
    what: Annotated[
        str, typer.Argument(metavar="NAME|KEY=V1,V2,...", help="Study in `feddat list`, or a setting and its values.")
    ],
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Annotated[str | None, methods_option("per study")] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[str | None, name_option("study-NAME-BENCHMARK")] = None,
    tune: Tune = None,
    split: Annotated[str, typer.Option(help="Split of the scores: validation (to choose a setting) or test.")] = "test",
    equal_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEPS", help="Train each client for about STEPS steps in total at every point."),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Show in a table and a plot how scores depend on one setting; each point is an ordinary run."""
    from feddat.config import ConfigError

    if split not in ("validation", "test"):
        raise ConfigError(f"--split: expected validation or test, got {split!r}")
    settings = settings_of(config, overrides, benchmark, name).updated({"eval.split": split})
    say_loading()
    from feddat.experiment import Study, all_runs, pinned, run_study
    from feddat.experiment.grids.studies import study_name
    from feddat.report import tables
    from feddat.report.study import marked_table

    wanted = Study.parse(what)
    settings = settings.updated({"name": study_name(wanted, settings)})
    names, each_seed = list(wanted.methods) if methods is None else split_names(methods), split_seeds(seeds)
    settings = pinned(settings)
    source = settings.benchmark or "own data"
    with interruptible():
        wanted = wanted.fitted(settings)
        for note in () if wanted.reach is None else wanted.reach.notes:
            say_warning(note)
        all_runs(wanted.plans(settings, names, each_seed))  # find mistakes before the search
        book = many.open_record(record)
        chosen = many.tuning({"": settings}, names, tune, jobs, overwrite, book).get("")
        plans = wanted.plans(settings, names, each_seed, chosen, equal_steps)
        runs = all_runs(plans)
        warn_without_effect(list(runs.values()))
        with many.display(runs, f"{len(runs)} runs on {source}: {wanted.description}", overwrite, book) as display:
            result = run_study(wanted, plans, jobs, display, overwrite, book)
    out.print(tables.to_rich(marked_table(result), f"{split.capitalize()} scores on {source} (%)"))
    if result["notes"]:
        out.print(Text(" ".join(result["notes"]), "dim italic"))
    folder = settings.run_dir
    print_paths(folder=folder, table=folder / "study.md", plot=folder / "study.png")
    many.fail_for(result["failed"], len(runs))


def newcomers(
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Methods = NEWCOMER_METHODS,
    clients: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Clients that join later, comma-separated.", show_default="each in its turn"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Local epochs of a newcomer.")] = 5,
    train_as: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="METHOD", help="Method with which every newcomer trains.", show_default="the federation's"
        ),
    ] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[str | None, name_option("newcomers-BENCHMARK")] = None,
    tune: Tune = None,
    config: Config = None,
    overwrite: Overwrite = False,
) -> None:
    """Leave each client out of a federation, and let it join afterwards: from the global adapter, with a few epochs."""
    settings = settings_of(config, overrides, benchmark, name)
    say_loading()
    from feddat.experiment import Newcomers, pinned, run_newcomers
    from feddat.report import method_table
    from feddat.report.newcomers import newcomers_table, newcomers_title

    names, each_seed = split_names(methods), split_seeds(seeds)
    late = [] if clients is None else split_names(clients)
    settings = pinned(settings)
    with interruptible():
        Newcomers.plan(settings, names, each_seed, epochs, late, None, train_as)  # find mistakes before the search
        chosen = many.tuning({"": settings}, names, tune, jobs, overwrite, None).get("")
        plan = Newcomers.plan(settings, names, each_seed, epochs, late, chosen, train_as)
        runs = plan.federations() | plan.alone()
        source = settings.benchmark or "own data"
        with many.display(runs, f"{len(runs)} runs on {source}: {len(plan.clients)} newcomers", overwrite) as display:
            result = run_newcomers(plan, jobs, display, overwrite)
    out.print(method_table.to_rich(newcomers_table(result), newcomers_title(result)))
    print_paths(folder=plan.folder, table=plan.folder / "newcomers.md")
    many.fail_for(result["failed"], len(runs))
