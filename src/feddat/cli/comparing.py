"""Commands that compare methods: on a federation, a suite, the demonstration, and real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    print_notes,
    print_paths,
    say_loading,
    settings_of,
    split_names,
    split_seeds,
    warn_without_effect,
)
from feddat.cli.costs import announce

if TYPE_CHECKING:
    from feddat.config import RunConfig

#: Default methods of `feddat demo`: in so few steps, the published distillation teaches little (docs/results.md).
DEMO_METHODS = "feddat-mild,fedavg,local,head"


def compare(
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Suite in `feddat list`: several federations at once.")
    ] = None,
    methods: Annotated[str | None, methods_option(f"{METHODS}; a suite's")] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[str | None, name_option("compare-BENCHMARK or suite-NAME")] = None,
    tune: Tune = None,
    tune_on: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="With --suite: choose settings only on this federation.")
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Compare several methods with several seeds on one federation, or on all federations of a suite."""
    from feddat.config import ConfigError

    settings = settings_of(config, overrides, benchmark, name)
    if suite is None:
        if tune_on is not None:
            raise ConfigError("--tune-on names a federation of a suite; give --suite too")
        _compare(settings, methods or METHODS, split_seeds(seeds), jobs, overwrite, tune, record)
    elif benchmark is not None:
        raise ConfigError("give either --suite or --benchmark, not both")
    else:
        _compare_suite(settings, suite, methods, split_seeds(seeds), jobs, overwrite, tune, tune_on, record)


def demo(
    overrides: Overrides = None,
    methods: Methods = DEMO_METHODS,
    seeds: Seeds = "2",
    jobs: Jobs = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare FedDAT with its rivals on the bundled benchmark, without a download, in minutes on a laptop."""
    from feddat.config import load_config, presets

    settings = load_config(presets()["demo"], overrides)
    out.print(
        f"Five clients with drawn pictures fine-tune one frozen model together: {len(split_names(methods))} methods, "
        f"{_count(split_seeds(seeds))} each. This takes one to two minutes on two cores; nothing is downloaded."
    )
    summaries, folder = _compare(settings, methods, split_seeds(seeds), jobs, overwrite, notes=False)
    _explain_demo(summaries, folder)


def _explain_demo(summaries: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Explain what the run did, what the result is, and what to do next."""
    from feddat.report.conclusion import conclusion
    from feddat.report.numbers import human_bytes
    from feddat.report.traffic import flow

    sent = flow(summaries)
    if sent is not None:
        out.print(
            f"\nEvery client kept its pictures, questions, answers and task head. It sent "
            f"{sent['communicated']:,} numbers in each of {sent['rounds']} rounds, {human_bytes(sent['up'])} in total.",
            highlight=False,
        )
    if said := conclusion(summaries):
        out.print(" ".join(said), markup=False, highlight=False)
    out.print(
        f"Open {folder / 'report.html'} to see curves and answers to single questions. Next: "
        "`feddat run --help` for your own runs, README.md for your own data.\n",
        markup=False,
        highlight=False,
    )


def real(
    overrides: Overrides = None,
    methods: Methods = METHODS,
    seeds: Seeds = "3",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Compare FedDAT with its rivals on real medical data with a real model, both fetched from the Hub."""
    from feddat.config import load_config, presets

    settings = load_config(presets()["real"], overrides)
    _compare(settings, methods, split_seeds(seeds), jobs, overwrite, record=record)


def _count(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s'[: len(seeds) > 1]}"


def _compare(
    config: RunConfig,
    methods: str,
    seeds: Sequence[int],
    jobs: int | None,
    overwrite: bool,
    tune: str | None = None,
    record: Record = None,
    notes: bool = True,
) -> tuple[list[dict[str, Any]], Path]:
    """Run a comparison, print its tables, and return its summaries and its folder.

    Args:
        config: settings of all runs.
        methods: comma-separated names.
        seeds: of each method.
        jobs: runs at the same time.
        overwrite: whether to replace earlier runs.
        tune: a search, or a file with a finished one.
        record: file to write finished runs to, and files to read them from.
        notes: whether to print which of the clients' data does not count.
    """
    names = split_names(methods)
    say_loading()
    from feddat.experiment import compare, comparison_runs, pinned
    from feddat.report import method_table, tables

    announce([config], names, len(seeds))
    config = pinned(config)

    source = config.benchmark or "own data"
    with interruptible():
        book = many.open_record(record)
        chosen = many.tuning({"": config}, names, tune, jobs, overwrite, book).get("")
        runs = comparison_runs(config, names, seeds, chosen)
        warn_without_effect(list(runs.values()))
        title = f"{len(runs)} runs on {source}: {len(names)} methods, {_count(seeds)}"
        with many.display(runs, title, overwrite, book) as display:
            comparison = compare(config, names, seeds, jobs, display, overwrite, chosen, book)
    table = method_table.method_table(comparison["runs"])
    out.print(method_table.to_rich(table, f"{config.eval.split.capitalize()} scores on {source} (%)"))
    if (kinds := tables.kind_table(comparison["runs"])) is not None:
        out.print(tables.to_rich(kinds, "By kind of question (%)"))
    print_notes(comparison["runs"], notes)
    folder = next(iter(runs.values())).runs_dir
    print_paths(folder=folder, report=folder / "report.html")
    many.fail_for(comparison["failed"], len(runs))
    return comparison["runs"], folder


def _compare_suite(
    config: RunConfig,
    name: str,
    methods: str | None,
    seeds: Sequence[int],
    jobs: int | None,
    overwrite: bool,
    tune: str | None,
    tune_on: str | None,
    record: Record,
) -> None:
    say_loading()
    from feddat.experiment import Plan, all_runs, pinned, run_suite
    from feddat.experiment.grids.suites import find_suite
    from feddat.report import method_table
    from feddat.report.suite import read_suite, suite_tables

    suite = find_suite(name)
    names = list(suite.methods) if methods is None else split_names(methods)
    configs = suite.configs(config)
    all_runs({label: Plan(each, names, seeds) for label, each in configs.items()})  # find mistakes first
    announce(list(configs.values()), names, len(seeds))
    configs = {label: pinned(each) for label, each in configs.items()}
    with interruptible():
        book = many.open_record(record)
        chosen = many.tuning(configs, names, tune, jobs, overwrite, book, tune_on)
        plans = {label: Plan(each, names, seeds, chosen.get(label)) for label, each in configs.items()}
        runs = all_runs(plans)
        warn_without_effect(list(runs.values()))
        with many.display(runs, f"{len(runs)} runs: {suite.description}", overwrite, book) as display:
            result = run_suite(suite, plans, jobs, display, overwrite, book)
    folder = next(iter(configs.values())).runs_dir
    found = read_suite(folder)[1]
    for title, table in suite_tables(found).items():
        out.print(method_table.to_rich(table, f"{title} (%)"))
    print_notes([summary for content in found.values() for summary in content.summaries], data=False)
    print_paths(folder=folder, report=folder / "report.html")
    many.fail_for(result["failed"], len(runs))
