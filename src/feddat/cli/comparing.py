"""Commands that run many federations: comparisons, suites, the demonstration, studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feddat.cli.common import (
    Benchmark,
    Config,
    Jobs,
    Overrides,
    Overwrite,
    Record,
    Seeds,
    Tune,
    fail,
    interruptible,
    out,
    print_data_notes,
    print_paths,
    say_loading,
    split_names,
    split_seeds,
)
from feddat.cli.pulling import announce

if TYPE_CHECKING:
    from feddat.config import RunConfig
    from feddat.experiment.grids.record import RunRecord
    from feddat.watching.live import ComparisonDisplay

#: Default methods of `feddat compare`, `feddat tune` and `feddat real`.
METHODS = "feddat,fedavg,local,head"
#: Default methods of `feddat newcomers`.
NEWCOMER_METHODS = "feddat,fedavg,local"
#: Default methods of `feddat demo`: in so few steps, the published distillation teaches little (docs/results.md).
DEMO_METHODS = "feddat-mild,fedavg,local,head"


def compare(
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="Suite in `feddat list`: several federations at once.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", "-m", help="Names in `feddat list`, comma-separated.", show_default=f"{METHODS}; a suite's"
        ),
    ] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs_dir.", show_default="compare-BENCHMARK or suite-NAME")
    ] = None,
    tune: Tune = None,
    tune_on: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="With --suite: choose settings only on this federation.")
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Compare several methods with several seeds on one federation, or on all federations of a suite."""
    from feddat.config import ConfigError, load_config

    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, _without_method(overrides), **values)
    if suite is None:
        if tune_on is not None:
            raise ConfigError("--tune-on names a federation of a suite; give --suite too")
        _compare(settings, methods or METHODS, split_seeds(seeds), jobs, overwrite, tune, record)
    elif benchmark is not None:
        raise ConfigError("give either --suite or --benchmark, not both")
    else:
        _compare_suite(settings, suite, methods, split_seeds(seeds), jobs, overwrite, tune, tune_on, record)


def tune(
    search: Annotated[str, typer.Argument(metavar="KEY=V1,V2,...", help="'K1=V,... K2=V,...' is a grid.")],
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Annotated[str, typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.")] = METHODS,
    jobs: Jobs = None,
    name: Annotated[str | None, typer.Option(help="Folder below runs_dir.", show_default="compare-BENCHMARK")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write the choice to this file too.")] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Choose settings for each method on validation data, and write tuning.json for --tune of other commands."""
    from feddat.config import ConfigError, load_config
    from feddat.experiment.single.folder import RunFolder

    if search.endswith(".json"):
        raise ConfigError(f"tune {search}: expected settings to search, KEY=V1,V2,...; a file holds a finished search")
    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, _without_method(overrides), **values)
    say_loading()
    from feddat.experiment.grids.comparison import comparison_name

    with interruptible():
        names = split_names(methods)
        chosen = _tuning({"": settings}, names, search, jobs, overwrite, _open_record(record))[""]
    folder = RunFolder(settings.runs_dir / comparison_name(settings) / "tuning")
    if to is not None:
        folder.write_json(to, chosen)
    print_paths(folder=folder.path, chosen=to or folder.path / "tuning.json")


def demo(
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.")
    ] = DEMO_METHODS,
    seeds: Seeds = "2",
    jobs: Jobs = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare FedDAT with its rivals on the bundled benchmark, without a download, in minutes on a laptop."""
    from feddat.config import load_config

    with resources.as_file(resources.files("feddat") / "presets" / "demo.yaml") as preset:
        settings = load_config(preset, overrides)
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
            f"\nEvery client kept its pictures, questions, answers and task head. It sent an adapter of "
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
    methods: Annotated[str, typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.")] = METHODS,
    seeds: Seeds = "3",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Compare FedDAT with its rivals on real medical data with a real model, both fetched from the Hub."""
    from feddat.config import load_config

    with resources.as_file(resources.files("feddat") / "presets" / "real.yaml") as preset:
        settings = load_config(preset, overrides)
    _compare(settings, methods, split_seeds(seeds), jobs, overwrite, record=record)


def _without_method(overrides: Overrides) -> Overrides:
    """Return overrides after checking that none sets a method; these commands take several methods."""
    from feddat.config import ConfigError

    for override in overrides or ():
        if override.partition("=")[0].strip() == "method":
            raise ConfigError(f"{override}: set methods with --methods NAME,NAME,...")
    return overrides


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
        book = _open_record(record)
        chosen = _tuning({"": config}, names, tune, jobs, overwrite, book).get("")
        runs = comparison_runs(config, names, seeds, chosen)
        title = f"{len(runs)} runs on {source}: {len(names)} methods, {_count(seeds)}"
        with _display(runs, title, overwrite, book) as display:
            comparison = compare(config, names, seeds, jobs, display, overwrite, chosen, book)
    table = method_table.method_table(comparison["runs"])
    out.print(method_table.to_rich(table, f"{config.eval.split.capitalize()} scores on {source} (%)"))
    if (kinds := tables.kind_table(comparison["runs"])) is not None:
        out.print(tables.to_rich(kinds, "By kind of question (%)"))
    if notes:
        print_data_notes(comparison["runs"])
    folder = next(iter(runs.values())).runs_dir
    print_paths(folder=folder, report=folder / "report.html")
    _fail_for(comparison["failed"], len(runs))
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
        book = _open_record(record)
        chosen = _tuning(configs, names, tune, jobs, overwrite, book, tune_on)
        plans = {label: Plan(each, names, seeds, chosen.get(label)) for label, each in configs.items()}
        runs = all_runs(plans)
        with _display(runs, f"{len(runs)} runs: {suite.description}", overwrite, book) as display:
            result = run_suite(suite, plans, jobs, display, overwrite, book)
    folder = next(iter(configs.values())).runs_dir
    for title, table in suite_tables(read_suite(folder)[1]).items():
        out.print(method_table.to_rich(table, f"{title} (%)"))
    print_paths(folder=folder, report=folder / "report.html")
    _fail_for(result["failed"], len(runs))


def study(
    what: Annotated[
        str, typer.Argument(metavar="NAME|KEY=V1,V2,...", help="Study in `feddat list`, or a setting and its values.")
    ],
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.", show_default="per study"),
    ] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs_dir.", show_default="study-NAME-BENCHMARK")
    ] = None,
    tune: Tune = None,
    split: Annotated[str, typer.Option(help="validation (to choose a setting) or test.")] = "test",
    equal_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEPS", help="Train each client for about STEPS steps in total at every point."),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    record: Record = None,
) -> None:
    """Show in a table and a plot how scores depend on one setting; each point is an ordinary run."""
    from feddat.config import ConfigError, load_config

    if split not in ("validation", "test"):
        raise ConfigError(f"--split: expected validation or test, got {split!r}")
    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, _without_method(overrides), **values).updated({"eval.split": split})
    say_loading()
    from feddat.experiment import Study, all_runs, pinned, run_study
    from feddat.experiment.grids.studies import study_name
    from feddat.report import tables
    from feddat.report.study import study_table

    wanted = Study.parse(what)
    settings = settings.updated({"name": study_name(wanted, settings)})
    names, each_seed = list(wanted.methods) if methods is None else split_names(methods), split_seeds(seeds)
    settings = pinned(settings)
    source = settings.benchmark or "own data"
    with interruptible():
        all_runs(wanted.plans(settings, names, each_seed))  # find mistakes before the search
        book = _open_record(record)
        chosen = _tuning({"": settings}, names, tune, jobs, overwrite, book).get("")
        plans = wanted.plans(settings, names, each_seed, chosen, equal_steps)
        runs = all_runs(plans)
        with _display(runs, f"{len(runs)} runs on {source}: {wanted.description}", overwrite, book) as display:
            result = run_study(wanted, plans, jobs, display, overwrite, book)
    out.print(tables.to_rich(study_table(result), f"{split.capitalize()} scores on {source} (%)"))
    folder = settings.run_dir
    print_paths(folder=folder, table=folder / "study.md", plot=folder / "study.png")
    _fail_for(result["failed"], len(runs))


def newcomers(
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.")
    ] = NEWCOMER_METHODS,
    clients: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Newcomers, comma-separated.", show_default="each in its turn")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Local epochs of a newcomer.")] = 5,
    train_as: Annotated[
        str | None,
        typer.Option("--as", metavar="METHOD", help="Method of all newcomers.", show_default="the federation's"),
    ] = None,
    seeds: Seeds = "3",
    jobs: Jobs = None,
    name: Annotated[str | None, typer.Option(help="Folder below runs_dir.", show_default="newcomers-BENCHMARK")] = None,
    tune: Tune = None,
    config: Config = None,
    overwrite: Overwrite = False,
) -> None:
    """Leave each client out of a federation, and let it join afterwards: from the global adapter, with a few epochs."""
    from feddat.config import load_config

    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, _without_method(overrides), **values)
    say_loading()
    from feddat.experiment import Newcomers, pinned, run_newcomers
    from feddat.report import method_table
    from feddat.report.newcomers import newcomers_table, newcomers_title

    names, each_seed = split_names(methods), split_seeds(seeds)
    late = [] if clients is None else split_names(clients)
    settings = pinned(settings)
    with interruptible():
        Newcomers.plan(settings, names, each_seed, epochs, late, None, train_as)  # find mistakes before the search
        chosen = _tuning({"": settings}, names, tune, jobs, overwrite, None).get("")
        plan = Newcomers.plan(settings, names, each_seed, epochs, late, chosen, train_as)
        runs = plan.federations() | plan.alone()
        source = settings.benchmark or "own data"
        with _display(runs, f"{len(runs)} runs on {source}: {len(plan.clients)} newcomers", overwrite) as display:
            result = run_newcomers(plan, jobs, display, overwrite)
    out.print(method_table.to_rich(newcomers_table(result), newcomers_title(result)))
    print_paths(folder=plan.folder, table=plan.folder / "newcomers.md")
    _fail_for(result["failed"], len(runs))


def _tuning(
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
    from feddat.report.tables import method_name

    if tune is None:
        return {}
    if tune.endswith(".json"):
        return dict.fromkeys(configs, read_tuning(Path(tune), methods))
    wanted = Search.parse(tune)
    searched = searched_configs(configs, on)
    runs = trials(searched, methods, wanted)
    with _display(runs, f"{len(runs)} runs to choose {wanted.name}", overwrite, record) as display:
        chosen = tune_suite(configs, methods, wanted, on, jobs, display, overwrite, record)
    for label, each in searched.items():
        for method, best in chosen[label]["best"].items():
            values = " ".join(f"{key}={value}" for key, value in best.items())
            source = each.benchmark or "own data"
            out.print(f"{source}, {method_name(method)}: {values} of {chosen[label]['scores'][method]}", soft_wrap=True)
    return chosen


def _fail_for(failed: Mapping[str, str], runs: int) -> None:
    """Exit with an error if some of ``runs`` runs failed."""
    if failed:
        raise typer.Exit(fail(f"{len(failed)} of {runs} runs failed", 1))


def _open_record(paths: Record) -> RunRecord | None:
    from feddat.experiment.grids.record import RunRecord

    return RunRecord(paths[0], paths[1:]) if paths else None


def _display(
    runs: dict[str, RunConfig], title: str, overwrite: bool, record: RunRecord | None = None
) -> ComparisonDisplay:
    from feddat.experiment.single.folder import RunFolder
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
            summary = RunFolder(run.run_dir).summary()
        if summary is not None:
            display.finish(name, summary["mean"], before=True)
    return display
