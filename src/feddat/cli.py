"""The ``feddat`` command: runs, comparisons, studies, reports, predictions, and a look at the data.

Nothing heavy is imported before a command needs it: ``feddat --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from feddat.config import RunConfig
    from feddat.live import ComparisonDisplay

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated fine-tuning of vision-language foundation models with the Dual-Adapter Teacher (FedDAT).",
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare data, and look at it before it is trained on.")
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)

#: What `feddat demo` and, by default, `feddat compare` compare.
METHODS = "feddat,fedavg,local,head"

Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with settings.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for example rounds=10 train.lr=1e-3.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left there.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at the same time.", show_default="one per core")]
Benchmark = Annotated[str | None, typer.Option("--benchmark", "-b", help="Name in `feddat list`.")]
Tune = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=V1,V2,...",
        help="First choose this for each method on validation data ('K1=V,... K2=V,...': a grid); or a tuning.json.",
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds per method: 0, 1, ...")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: the entry point of the ``feddat`` script.

    Errors that a user can act on are one line on standard error, and exit code 2; ``--debug``, anywhere on the line,
    shows where they come from.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    code: Any
    try:
        code = app([a for a in arguments if a != "--debug"], prog_name="feddat", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        sys.exit(_fail(error.format_message(), error.exit_code))
    except click.Abort:
        code = 130
    except Exception as error:
        if debug:
            raise
        code = _fail(*_explain(error))
    if code == 130:  # typer's answer to Ctrl-C
        code = _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code: 2 for what a user can mend, 1 for a fault of the program."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("feddat."):
        return text, 2
    if isinstance(error, OSError):
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text
        return named, 2
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)", 1


def _fail(message: str, code: int) -> int:
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    return code


def _version(value: bool) -> None:
    if value:
        typer.echo(f"feddat {metadata.version('feddat')}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Route the package's own log to standard error, and keep the libraries' notes to developers off it."""
    notes = "ignore::FutureWarning:transformers.modeling_utils"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), notes]))  # for workers
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.modeling_utils")
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("feddat")
    logger.handlers = [handler]
    logger.propagate = False
    logging.getLogger("feddat.data").setLevel(logging.INFO)
    # The displays show these themselves.
    logging.getLogger("feddat.app.strategy").setLevel(logging.ERROR)


class _Stderr:
    """Standard error as it is at the moment of writing: a live display replaces it to draw below what is written."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@app.command()
def run(
    overrides: Overrides = None,
    config: Config = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with the run in this folder, with its own settings.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Run one federation and write its folder."""
    from feddat.config import ConfigError

    if resume is not None:
        if config is not None or overrides or overwrite:
            raise ConfigError("--resume takes the settings of the run's folder: give no others, and no --overwrite")
        _say_loading()
        from feddat.experiment import Experiment

        experiment = Experiment.open(resume)
    else:
        from feddat.config import load_config

        settings = load_config(config, overrides)
        _say_loading()
        from feddat.experiment import Experiment

        experiment = Experiment(settings)
    from feddat.live import RunDisplay
    from feddat.report import read_folder, tables

    folder = experiment.folder.path
    source = experiment.config.benchmark or "own data"
    title = f"{tables.method_name(experiment.config.method)} on {source}, seed {experiment.config.seed}"
    with _interruptible(f"feddat run --resume {folder}"), RunDisplay(out, title) as display:
        experiment.run(display, resume=resume is not None, overwrite=overwrite)
    content = read_folder(folder)
    out.print(tables.to_rich(tables.route_table(content.summaries) or tables.score_table(content.summaries), title))
    _print_paths(folder)


@app.command()
def compare(
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    suite: Annotated[
        str | None, typer.Option(metavar="NAME", help="A suite in `feddat list`: several federations at once.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", "-m", help="Names in `feddat list`, with commas.", show_default=f"{METHODS}; a suite's"
        ),
    ] = None,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs_dir.", show_default="compare-BENCHMARK or suite-NAME")
    ] = None,
    tune: Tune = None,
    tune_on: Annotated[
        str | None, typer.Option(metavar="BENCHMARK", help="Suite: choose settings on this federation alone.")
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
) -> None:
    """Run several methods with several seeds, on one federation or those of a suite, and compare them."""
    from feddat.config import ConfigError, load_config

    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, overrides, **values)
    if suite is None:
        if tune_on is not None:
            raise ConfigError("--tune-on: names a federation of a suite; give --suite")
        _compare(settings, methods or METHODS, seeds, jobs, overwrite, tune)
    elif benchmark is not None:
        raise ConfigError("--suite and --benchmark: give one of them")
    else:
        _compare_suite(settings, suite, methods, seeds, jobs, overwrite, tune, tune_on)


@app.command()
def demo(
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option("--methods", "-m", help="Names in `feddat list`, with commas.")] = METHODS,
    seeds: Seeds = 2,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare FedDAT with its rivals on the bundled benchmark: no download, minutes on a laptop."""
    from feddat.config import load_config

    with resources.as_file(resources.files("feddat") / "presets" / "demo.yaml") as preset:
        settings = load_config(preset, overrides)
    _compare(settings, methods, seeds, jobs, overwrite)


def _compare(
    config: RunConfig, methods: str, seeds: int, jobs: int | None, overwrite: bool, tune: str | None = None
) -> None:
    names = _names(methods)
    _say_loading()
    from feddat.experiment import compare, comparison_runs
    from feddat.report import method_table

    source = config.benchmark or "own data"
    with _interruptible("the same command again"):
        chosen = _tuning({"": config}, names, tune, jobs, overwrite).get("")
        runs = comparison_runs(config, names, range(seeds), chosen)
        title = f"{len(runs)} runs on {source}: {len(names)} methods, {seeds} seed{'s'[: seeds > 1]}"
        with _display(runs, title, overwrite) as display:
            comparison = compare(config, names, range(seeds), jobs, display, overwrite, chosen)
    table = method_table.method_table(comparison["runs"])
    out.print(method_table.to_rich(table, f"{config.eval.split.capitalize()} scores on {source} (%)"))
    _print_paths(next(iter(runs.values())).runs_dir)
    _fail_for(comparison["failed"], len(runs))


def _compare_suite(
    config: RunConfig,
    name: str,
    methods: str | None,
    seeds: int,
    jobs: int | None,
    overwrite: bool,
    tune: str | None,
    tune_on: str | None,
) -> None:
    _say_loading()
    from feddat.experiment import Plan, all_runs, run_suite
    from feddat.experiment.suites import find_suite
    from feddat.report import method_table
    from feddat.report.suite import read_suite, suite_tables

    suite = find_suite(name)
    names = list(suite.methods) if methods is None else _names(methods)
    configs = suite.configs(config)
    all_runs({label: Plan(each, names, range(seeds)) for label, each in configs.items()})  # mistakes show first
    with _interruptible("the same command again"):
        chosen = _tuning(configs, names, tune, jobs, overwrite, tune_on)
        plans = {label: Plan(each, names, range(seeds), chosen.get(label)) for label, each in configs.items()}
        runs = all_runs(plans)
        with _display(runs, f"{len(runs)} runs: {suite.description}", overwrite) as display:
            result = run_suite(suite, plans, jobs, display, overwrite)
    folder = next(iter(configs.values())).runs_dir
    for title, table in suite_tables(read_suite(folder)[1]).items():
        out.print(method_table.to_rich(table, f"{title} (%)"))
    _print_paths(folder)
    _fail_for(result["failed"], len(runs))


@app.command()
def study(
    what: Annotated[
        str, typer.Argument(metavar="NAME|KEY=V1,V2,...", help="A study in `feddat list`, or a setting and its values.")
    ],
    overrides: Overrides = None,
    benchmark: Benchmark = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "-m", help="Names in `feddat list`, with commas.", show_default="per study"),
    ] = None,
    seeds: Seeds = 3,
    jobs: Jobs = None,
    name: Annotated[
        str | None, typer.Option(help="Folder below runs_dir.", show_default="study-NAME-BENCHMARK")
    ] = None,
    tune: Tune = None,
    split: Annotated[str, typer.Option(help="validation, to choose a setting, or test.")] = "test",
    equal_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEPS", help="Let a client take about STEPS local steps in all at every point."),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw how the scores depend on one thing: a table and a plot, each point of which is an ordinary run."""
    from feddat.config import ConfigError, load_config

    if split not in ("validation", "test"):
        raise ConfigError(f"--split: expected validation or test, got {split!r}")
    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    settings = load_config(config, overrides, **values).updated({"eval.split": split})
    _say_loading()
    from feddat.experiment import Study, all_runs, run_study
    from feddat.experiment.studies import study_name
    from feddat.report import tables
    from feddat.report.study import study_table

    wanted = Study.parse(what)
    settings = settings.updated({"name": study_name(wanted, settings)})
    names = list(wanted.methods) if methods is None else _names(methods)
    source = settings.benchmark or "own data"
    with _interruptible("the same command again"):
        all_runs(wanted.plans(settings, names, range(seeds)))  # mistakes show before the search for settings
        chosen = _tuning({"": settings}, names, tune, jobs, overwrite).get("")
        plans = wanted.plans(settings, names, range(seeds), chosen, equal_steps)
        runs = all_runs(plans)
        with _display(runs, f"{len(runs)} runs on {source}: {wanted.description}", overwrite) as display:
            result = run_study(wanted, plans, jobs, display, overwrite)
    out.print(tables.to_rich(study_table(result), f"{split.capitalize()} scores on {source} (%)"))
    folder = settings.run_dir
    for label, file in (("folder", folder), ("table", folder / "study.md"), ("plot", folder / "study.png")):
        out.print(Text.assemble((f"{label:<8}", "dim"), str(file)), soft_wrap=True)
    _fail_for(result["failed"], len(runs))


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _tuning(
    configs: Mapping[str, RunConfig],
    methods: list[str],
    tune: str | None,
    jobs: int | None,
    overwrite: bool,
    on: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return by label what an earlier search chose (a file), or search now (``KEY=V1,V2,...``) and say what."""
    from feddat.experiment import Search, read_tuning
    from feddat.experiment.suites import searched_configs, tune_suite
    from feddat.experiment.tuning import trials
    from feddat.report.tables import method_name

    if tune is None:
        return {}
    if tune.endswith(".json"):
        return dict.fromkeys(configs, read_tuning(Path(tune), methods))
    wanted = Search.parse(tune)
    searched = searched_configs(configs, on)
    runs = trials(searched, methods, wanted)
    with _display(runs, f"{len(runs)} runs to choose {wanted.name}", overwrite) as display:
        chosen = tune_suite(configs, methods, wanted, on, jobs, display, overwrite)
    for label, each in searched.items():
        for method, best in chosen[label]["best"].items():
            values = " ".join(f"{key}={value}" for key, value in best.items())
            source = each.benchmark or "own data"
            out.print(f"{source}, {method_name(method)}: {values} of {chosen[label]['scores'][method]}", soft_wrap=True)
    return chosen


def _fail_for(failed: Mapping[str, str], runs: int) -> None:
    """Exit with an error if some of so many runs failed."""
    if failed:
        raise typer.Exit(_fail(f"{len(failed)} of {runs} runs failed", 1))


def _display(runs: dict[str, RunConfig], title: str, overwrite: bool) -> ComparisonDisplay:
    from feddat.experiment.folder import RunFolder
    from feddat.live import ComparisonDisplay
    from feddat.report.tables import method_name

    lines = {
        # A run of one of several comparisons is called LABEL/METHOD-sSEED.
        name: (" · ".join(filter(None, (method_name(run.method), name.rpartition("/")[0]))), run.seed, run.rounds)
        for name, run in runs.items()
    }
    display = ComparisonDisplay(out, title, lines)
    for name, run in runs.items():
        if not overwrite and (summary := RunFolder(run.run_dir).summary()) is not None:
            display.finish(name, summary["mean"], before=True)
    return display


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, a comparison, a study or a suite.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print its tables in Markdown, and write nothing.")
    ] = False,
) -> None:
    """Write the report page of a run, a comparison or a suite, or table and plot of a study; print where they are."""
    if markdown:
        from feddat.report.markdown import markdown as tables

        typer.echo(tables(run), nl=False)
    elif (run / "study.json").is_file():
        from feddat.report.study import write_study

        for path in write_study(run):
            typer.echo(path)
    elif (run / "suite.json").is_file():
        from feddat.report.suite import write_suite

        typer.echo(write_suite(run))
    else:
        from feddat.report import write_report

        typer.echo(write_report(run))


@app.command()
def predict(
    run: Annotated[Path, typer.Option(metavar="RUN_DIR", help="Folder of a run.")],
    client: Annotated[str, typer.Option(help="Whose model answers.")],
    image: Annotated[list[Path], typer.Option(metavar="FILE", help="Picture; give two for nlvr2.")],
    question: Annotated[str, typer.Option(help="Question, sentence or hypothesis.")],
    choice: Annotated[list[str] | None, typer.Option(help="Answer to choose from (vcr): give four.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
) -> None:
    """Ask a trained client's model a question about a picture."""
    from feddat.example import DataError, Example

    for path in image:
        if not path.is_file():
            raise DataError(f"{path}: no such image file")
    from feddat.experiment import Experiment

    example = Example("question", tuple(image), question, choices=tuple(choice or ()))
    answers = Experiment.open(run).predict(client, [example], top)[0]
    width = max(len(answer) for answer, _ in answers)
    for answer, probability in answers:
        bar = "█" * round(30 * probability) or "▏"
        out.print(Text.assemble(f"{answer:<{width}}  {100 * probability:5.1f} %  ", (bar, "cyan")))


@app.command()
def pretrain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Checkpoints and log; the model comes to DIR/model.")],
    overrides: Overrides = None,
) -> None:
    """Pretrain a small ViLT on the plain mini world, as vilt-mini was; the same command again resumes."""
    from feddat.pretrain.train import PretrainSettings
    from feddat.pretrain.train import pretrain as train

    settings = PretrainSettings.parse(overrides or [])

    def show(event: dict[str, Any]) -> None:
        losses = "  ".join(f"{key} {value:.3f}" for key, value in event["losses"].items())
        quality = "  ".join(f"{key} {value:.0f} %" for key, value in event["quality"].items())
        left = f"{event['seconds_left'] / 60:.0f} min left"
        out.print(f"[bold]step {event['step']}/{event['steps']}[/]  {left}  {losses}", soft_wrap=True)
        if quality:
            out.print(f"  [cyan]{quality}[/]", soft_wrap=True)

    with _interruptible("the same command again"):
        quality = train(folder, settings, show)
    for name, value in quality.items():
        out.print(f"{name:<20}{value:6.1f} %")
    out.print(Text.assemble(("model  ", "dim"), str(folder / "model")), soft_wrap=True)


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="ALBEF's .pth: pretrained, or fine-tuned for VQA.")
    ],
    bert: Annotated[Path, typer.Option(metavar="DIR", help="bert-base-uncased: its configuration and vocabulary.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Model folder to write.")],
    image_size: Annotated[int, typer.Option(min=1, help="Side of the images that the model sees, in pixels.")] = 384,
) -> None:
    """Make a model folder of a published ALBEF checkpoint, for `model=DIR`."""
    _say_loading()
    from feddat.models.albef.convert import convert as make_folder

    report = make_folder(checkpoint, bert, to, image_size)
    out.print(f"positions of {report.image_size} pixels, answer decoder from the {report.decoder}")
    parts = Counter(name.partition(".")[0] for name in report.unused)
    unused = ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"
    out.print(f"tensors not used: {unused}", soft_wrap=True)
    out.print(Text.assemble(("folder  ", "dim"), str(to)), soft_wrap=True)


@app.command("list")
def list_names() -> None:
    """List the models, methods, kinds of adapter, benchmarks, studies, suites and formats that may be named."""
    from feddat.benchmarks import list_benchmarks
    from feddat.data.readers import known_formats
    from feddat.experiment import STUDIES, SUITES, known_methods
    from feddat.kinds import KINDS
    from feddat.models.catalog import list_models

    sections = {
        "Models": list_models(),
        "Methods": known_methods(),
        "Kinds of adapter (adapter.peft)": {n: f"trains {kind.trains} ({kind.source})" for n, kind in KINDS.items()},
        "Benchmarks": list_benchmarks(),
        "Studies": {name: study.description for name, study in STUDIES.items()},
        "Suites": {name: suite.description for name, suite in SUITES.items()},
        "Formats of own data": known_formats(),
    }
    for title, names in sections.items():
        out.print(Text(title, style="bold"))
        width = max(map(len, names), default=0)
        for name, description in names.items():
            out.print(Text.assemble("  ", (f"{name:<{width}}", "cyan"), f"  {description}"), soft_wrap=True)


@data_app.command("show")
def show(
    benchmark: Benchmark = None,
    config: Config = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    to: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Picture to write.")] = Path("sheet.png"),
) -> None:
    """Draw a contact sheet: pictures of each client with their questions and answers."""
    from feddat.config import ConfigError, load_config

    if split not in ("train", "validation", "test"):
        raise ConfigError(f"--split: expected train, validation or test, got {split!r}")
    if (benchmark is None) == (config is None):
        raise ConfigError("give one of --benchmark (a name in `feddat list`) and --config (a file with `clients`)")
    _say_loading()
    from feddat.experiment import load_clients

    settings = load_config(config) if benchmark is None else load_config(benchmark=benchmark)
    clients = {data.name: data for data in load_clients(settings)}
    if client is not None:
        if client not in clients:
            raise ConfigError(f"--client: {client!r} is unknown; clients are {', '.join(clients)}")
        clients = {client: clients[client]}
    from feddat.report.sheet import contact_sheet
    from feddat.tasks import make_task

    classes = {data.task: make_task(data.task, data.answers).classes for data in clients.values()}
    contact_sheet(list(clients.values()), split, classes=classes).save(to)
    for name, data in clients.items():
        answers = f", {len(data.answers)} answers" if data.answers else ""
        sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test{answers}"
        out.print(Text(f"{name}: {data.task}, {sizes}"), soft_wrap=True)
    typer.echo(to)


@data_app.command("prepare")
def prepare(
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="A paper/* name in `feddat list`.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the published datasets, see docs/data.md.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")],
    model: Annotated[str, typer.Option(help="Whose image processor and tokenizer: a name, or a folder.")] = "vilt-mini",
    train_examples: Annotated[int, typer.Option(min=1, help="Training questions per client.")] = 2500,
    test_examples: Annotated[int, typer.Option(min=1, help="Test questions per client.")] = 500,
    top_answers: Annotated[int, typer.Option(min=1, help="Answers per client.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of questions.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that decode.", show_default="one per core")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out questions whose image is missing or cannot be decoded.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was prepared there before.")] = False,
) -> None:
    """Build a federation from published files; `feddat run benchmark=DIR` then starts from what is decoded already.

    The same command again goes on where the last one stopped.
    """
    from feddat.benchmarks.draw import Sizes
    from feddat.benchmarks.prepared import Request, is_prepared, read_manifest

    request = Request(benchmark, root, model, seed, Sizes(train_examples, test_examples, top_answers))
    if overwrite or not is_prepared(to, request):
        _say_loading()
        from feddat.experiment.prepare import prepare
        from feddat.live import PrepareDisplay

        with _interruptible("the same command again"), PrepareDisplay(out, f"{benchmark} from {root}") as display:
            prepare(request, to, jobs, skip_bad, overwrite, display)
    out.print(_counts((read_manifest(to) or {})["clients"]))
    out.print(Text.assemble(("folder  ", "dim"), str(to)), soft_wrap=True)


def _counts(clients: Mapping[str, Any]) -> Table:
    """Return what became of every client's questions; those neither dropped nor kept were not drawn."""
    caption = "outside: none of the answers is among the client's most frequent; broken: an image cannot be decoded"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    keys = ("published", "outside", "broken", "kept")
    for heading in ("client", "split", *keys, "skipped", "answers"):
        table.add_column(heading, justify="left" if heading in ("client", "split") else "right", no_wrap=True)
    for client, about in clients.items():
        for split, counts in about["counts"].items():
            numbers = [*(counts[key] for key in keys), sum(counts["skipped"].values())]
            first = split == "train"
            table.add_row(
                Text(client if first else ""),
                split,
                *map(str, numbers),
                str(len(about["answers"]) or "") if first else "",
            )
    return table


class _Interrupted(click.ClickException):
    exit_code = 130


@contextmanager
def _interruptible(way_on: str) -> Iterator[None]:
    """On Ctrl-C, say how to go on where this left off."""
    try:
        yield
    except KeyboardInterrupt:
        raise _Interrupted(f"interrupted; what is done is kept, go on with: {way_on}") from None


def _say_loading() -> None:
    """Say something before the libraries load, which takes seconds."""
    if out.is_terminal:
        out.print("[dim]loading libraries …[/]", end="\r")


def _print_paths(folder: Path) -> None:
    out.print(Text.assemble(("folder  ", "dim"), str(folder)), soft_wrap=True)
    out.print(Text.assemble(("report  ", "dim"), str(folder / "report.html")), soft_wrap=True)
