"""Commands about one run, and ``feddat list``."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from feddat.cli.common import (
    Config,
    Json,
    Overrides,
    Overwrite,
    interruptible,
    out,
    print_json,
    print_notes,
    print_paths,
    say_loading,
    say_recommended,
    shared_and_differs,
    split_names,
    split_seeds,
    warn_without_effect,
)

if TYPE_CHECKING:
    from feddat.experiment import Experiment
    from feddat.experiment.single.profile import Profile

AcceptChanges = Annotated[
    bool,
    typer.Option("--accept-changes", help="Continue although model or data files have changed; the summary says so."),
]


def run(
    overrides: Overrides = None,
    config: Config = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Continue the run in this folder, with its own settings.")
    ] = None,
    overwrite: Overwrite = False,
    accept_changes: AcceptChanges = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure time per phase, and write traces of a few steps (Perfetto).")
    ] = False,
) -> None:
    """Run one federation and write its folder."""
    from feddat.config import ConfigError

    if resume is not None:
        if config is not None or overrides or overwrite:
            raise ConfigError(
                "--resume uses the settings of the run's folder; give no other settings, and no --overwrite"
            )
        say_loading()
        from feddat.experiment import Experiment

        experiment = Experiment.open(resume)
    else:
        from feddat.config import load_config

        settings = load_config(config, overrides)
        say_recommended(settings)
        say_loading()
        from feddat.experiment import Experiment
        from feddat.experiment.single.methods import check_variant

        check_variant(settings, [override.partition("=")[0] for override in overrides or ()])
        experiment = Experiment(settings)
        warn_without_effect([settings])
    from feddat.deploy.launch import run_in
    from feddat.experiment.single.methods import title as method_title
    from feddat.report import tables
    from feddat.report.folder import read_folder
    from feddat.watching.live import RunDisplay

    runtime = experiment.config.runtime
    if profile and (runtime.kind != "in-process" or runtime.jobs not in (1, "auto")):
        other = f"runtime.jobs is {runtime.jobs}" if runtime.kind == "in-process" else f"runtime is {runtime.kind}"
        raise ConfigError(f"--profile measures only this process, but {other}; leave one of them out")
    folder = experiment.folder.path
    source = experiment.config.benchmark or "own data"
    title = f"{method_title(experiment.config)} on {source}, seed {experiment.config.seed}"
    watched = _profile(experiment) if profile else None
    with (
        interruptible(shlex.join(["feddat", "run", "--resume", str(folder)])),
        RunDisplay(out, title) as display,
        watched or nullcontext(),
    ):
        run_in(
            experiment,
            display,
            resume=resume is not None,
            overwrite=overwrite,
            jobs=1 if profile else None,
            accept_changes=accept_changes,
        )
    content = read_folder(folder)
    out.print(tables.to_rich(tables.route_table(content.summaries) or tables.score_table(content.summaries), title))
    print_notes(content.summaries)
    paths = {"folder": folder, "report": folder / "report.html"}
    if watched is not None:
        _show_profile(watched)
        paths["profile"] = watched.write(folder / "profile")[0].parent
    print_paths(**paths)


def _profile(experiment: Experiment) -> Profile:
    from feddat.experiment.single.profile import Profile

    return Profile(experiment.config.device)


def _show_profile(profile: Profile) -> None:
    """Print the time per phase, and the operators that took most of the profiled time."""
    tables = {"phase": profile.phases()}
    for stretch in profile.traces:
        rows = profile.operators(stretch)
        tables[f"operator, {stretch}"] = [row | {"phase": row["name"]} for row in rows]
    for title, rows in tables.items():
        shown = Table(title, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("calls", "seconds", "share"):
            shown.add_column(heading, justify="right")
        for row in rows:
            share = "" if row["share"] is None else f"{100 * row['share']:.1f} %"
            shown.add_row(row["phase"], str(row["calls"] or ""), f"{row['seconds']:.3f}", share)
        out.print(shown, "")


def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folder of a run, comparison, study, suite or newcomers; or files of a record.",
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and write nothing.")] = False,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "-m", help="For a record: methods to show, comma-separated.", show_default="all"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="For a record: method to compare the others with.", show_default="feddat"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|LIST",
            help="For a record: seeds to show: 2 for 0 and 1; 10-12 or 10,11 for these.",
            show_default="all",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="For a record: show scores against this setting, for example privacy.epsilon."
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="For a record: name of the files to write, without ending.",
            show_default="first file's",
        ),
    ] = None,
) -> None:
    """Write the report page of a run, comparison or suite, or the tables and plot of a study or a record of runs.

    Prints the paths of the files.
    """
    folder = next((path for path in run if not path.is_file()), None)
    if folder is not None:
        if len(run) > 1:
            raise typer.BadParameter(
                f"{folder} is not a record of runs (FILE.jsonl); only files of a record are reported together",
                param_hint="RUN",
            )
        given = {"--methods": methods, "--reference": reference, "--seeds": seeds, "--by": by, "--to": to}
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(f"{folder} is not a record of runs (FILE.jsonl)", param_hint=name)
        _report_folder(folder, markdown, as_json)
        return
    if by is not None and (as_json or reference is not None):
        raise typer.BadParameter("goes with --markdown, --methods, --seeds and --to only", param_hint="--by")
    if to is not None and (as_json or markdown):
        raise typer.BadParameter("nothing is written with --markdown or --json", param_hint="--to")
    chosen = split_seeds(seeds) if seeds else None
    _report_record(run, split_names(methods) if methods else None, reference, chosen, by, markdown, as_json, to)


def _report_folder(folder: Path, markdown: bool, as_json: bool) -> None:
    """Print or write the results in a folder."""
    if as_json:
        from feddat.report.folder import read_result

        print_json(read_result(folder))
    elif markdown:
        from feddat.report.markdown import markdown as tables

        typer.echo(tables(folder), nl=False)
    else:
        for path in _write_results(folder):
            typer.echo(path)


def _write_results(folder: Path) -> list[Path]:
    """Write what shows the results in a folder; return the paths to print."""
    from feddat.report.folder import kind_of

    match kind_of(folder):
        case "suite":
            from feddat.report.suite import write_suite

            return [write_suite(folder)]
        case "study":
            from feddat.report.study import write_study

            return write_study(folder)
        case "newcomers":
            from feddat.report.newcomers import write_newcomers

            return [write_newcomers(folder)]
        case _:
            from feddat.report.page import write_report

            return [write_report(folder)]


def _report_record(
    files: list[Path],
    methods: list[str] | None,
    reference: str | None,
    seeds: list[int] | None,
    by: str | None,
    markdown: bool,
    as_json: bool,
    to: Path | None,
) -> None:
    """Print or write the results in a record."""
    from feddat.report import by_setting, record

    runs = record.read_record(*files)
    if seeds is not None:
        runs = runs.of_seeds(seeds)
    stem = to or files[0].with_suffix("")
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
    if as_json:
        print_json(runs.lines)
    elif by is not None:
        found = by_setting.studies(runs, by, _default(by), methods)
        if markdown:
            typer.echo(by_setting.markdown(found), nl=False)
            return
        for path in by_setting.write(stem, by, found):
            typer.echo(path)
    elif markdown:
        typer.echo(record.record_markdown(runs, methods, reference), nl=False)
    else:
        for path in record.write_record(runs, stem, methods, reference):
            typer.echo(path)


def _default(key: str) -> object:
    """Return the default of the configuration key given to ``--by``."""
    from pydantic import BaseModel

    from feddat.config import ConfigError, RunConfig

    try:
        default: object = RunConfig().value(key)
    except KeyError:
        raise ConfigError(f"--by: {key!r} is not a configuration key") from None
    if isinstance(default, BaseModel):
        raise ConfigError(f"--by: {key!r} is a section; expected one of its keys")
    return default


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    split: Annotated[str, typer.Option(help="Split to score: train, validation or test.")] = "test",
    answer: Annotated[
        str | None, typer.Option(help="For FedDAT: answer with dat or mixture, instead of the run's algorithm.answer.")
    ] = None,
    as_json: Json = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Score a run's clients on a split after the last finished round; write nothing."""
    from feddat.config import ConfigError

    if split not in ("train", "validation", "test"):
        raise ConfigError(f"--split: expected train, validation or test, got {split!r}")
    say_loading()
    from feddat.experiment import Experiment
    from feddat.report import tables

    scores = Experiment.open(run).evaluate(split, accept_changes, answer)
    if as_json:
        print_json(scores)
        return
    table = tables.split_table(scores)
    out.print(tables.to_rich(table, f"{split.capitalize()} scores (%)"))


def list_names(as_json: Json = False) -> None:
    """List all models, methods, kinds of adapter, benchmarks, studies, suites, presets and data formats."""
    from feddat.benchmarks import about_benchmark, list_benchmarks
    from feddat.config import presets
    from feddat.data.readers import known_formats
    from feddat.experiment import STUDIES, SUITES, known_methods
    from feddat.kinds import KINDS
    from feddat.models.catalog import list_models

    sections = {
        "models": ("Models", list_models()),
        "methods": ("Methods", known_methods()),
        "adapters": (
            "Kinds of adapter (adapter.peft)",
            {name: f"trains {kind.trains} ({kind.source})" for name, kind in KINDS.items()},
        ),
        "benchmarks": ("Benchmarks", list_benchmarks()),
        "studies": ("Studies", {name: study.description for name, study in STUDIES.items()}),
        "suites": ("Suites", {name: suite.description for name, suite in SUITES.items()}),
        "presets": ("Presets of settings (--config)", {name: _comment(file) for name, file in presets().items()}),
        "formats": ("Formats of own data", known_formats()),
    }
    if as_json:
        print_json({key: dict(names) for key, (_, names) in sections.items()})
        return
    for key, (title, names) in sections.items():
        out.print(Text(title, style="bold"))
        width = max(map(len, names), default=0)
        for name, description in names.items():
            out.print(Text.assemble("  ", (f"{name:<{width}}", "cyan"), f"  {description}"), soft_wrap=True)
            for line in shared_and_differs(about_benchmark(name)) if key == "benchmarks" else ():
                out.print(Text(f"{' ' * (width + 4)}{line}", style="dim"), soft_wrap=True)


def _comment(file: Path) -> str:
    """Return the comment in a preset's first line."""
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip(".")


def settings(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Only settings with all of these words in key or meaning."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the settings of a run: key, default, allowed values and meaning."""
    from feddat.config import RunConfig
    from feddat.config.described import default_of, every_key, range_of
    from feddat.config.recommended import RECOMMENDED

    rows = {}
    for key, field in every_key(RunConfig):
        other = (f"; {model}: {own[key]}" for model, own in RECOMMENDED.items() if key in own)
        texts = (default_of(field) + "".join(other), range_of(field), " ".join((field.description or "").split()))
        if all(word.lower() in f"{key} {texts[-1]}".lower() for word in words or ()):
            rows[key] = [text.replace("`", "") for text in texts]
    if not rows:
        raise typer.BadParameter(f"no setting has {' and '.join(words or ())} in its key or meaning")
    if as_json:
        print_json({key: dict(zip(("default", "values", "meaning"), row, strict=True)) for key, row in rows.items()})
        return
    width = max(map(len, rows))
    for key, (default, values, meaning) in rows.items():
        out.print(
            Text.assemble((f"{key:<{width}}", "cyan"), f"  {default}", (f"  ({values})", "dim"), f"  {meaning}"),
            soft_wrap=True,
        )
