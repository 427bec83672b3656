"""``feddat data``: fetch, prepare and inspect data before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from feddat.cli.common import Benchmark, Config, interruptible, out, print_paths, say_loading, shared_and_differs
from feddat.cli.pulling import pull

app = typer.Typer(no_args_is_help=True, suggest_commands=False, help="Fetch, prepare and inspect data before training.")
app.command("pull")(pull)

#: The most training questions of a client that the text-only baseline learns from.
_TEXT_ONLY = 2500


@app.command("show")
def show(
    benchmark: Benchmark = None,
    config: Config = None,
    client: Annotated[str | None, typer.Option(help="Only this client.")] = None,
    split: Annotated[str, typer.Option(help="Split to draw: train, validation or test.")] = "train",
    to: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Picture to write.")] = Path("sheet.png"),
) -> None:
    """Draw a contact sheet with pictures, questions and answers of each client."""
    from feddat.config import ConfigError, load_config

    if split not in ("train", "validation", "test"):
        raise ConfigError(f"--split: expected train, validation or test, got {split!r}")
    if (benchmark is None) == (config is None):
        raise ConfigError("give one of --benchmark (a name in `feddat list`) and --config (a file with `clients`)")
    if not _is_picture_name(to):
        raise ConfigError(f"--out: {to}: expected the name of a picture, such as sheet.png or sheet.jpg")
    say_loading()
    from feddat.experiment import load_clients
    from feddat.text import normal_text

    settings = load_config(config) if benchmark is None else load_config(benchmark=benchmark)
    clients = {data.name: data for data in load_clients(settings)}
    if client is not None:
        client = normal_text(client)
        if client not in clients:
            raise ConfigError(f"--client: {client!r} is unknown; clients are {', '.join(clients)}")
        clients = {client: clients[client]}
    from feddat.client.data_notes import unanswerable
    from feddat.report.sheet import contact_sheet
    from feddat.tasks import make_task

    classes = {data.task: make_task(data.task, data.answers).classes for data in clients.values()}
    contact_sheet(list(clients.values()), split, classes=classes).save(to)
    for name, data in clients.items():
        answers = f", {len(data.answers)} answers" if data.answers else ""
        sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test{answers}"
        lacking = unanswerable(data, "test")
        note = f"; {lacking} test questions have none of these answers" if lacking else ""
        out.print(Text(f"{name}: {data.task}, {sizes}{note}"), soft_wrap=True)
    typer.echo(to)


def _is_picture_name(path: Path) -> bool:
    """Return whether a picture can be written in the format that a file's suffix names."""
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


@app.command("describe")
def describe(
    benchmark: Benchmark = None,
    config: Config = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
) -> None:
    """Count a federation's questions and answers, and score baselines that see no pictures.

    Says what the clients of a benchmark share, and how they differ.
    """
    from feddat.config import ConfigError, load_config

    if (benchmark is None) == (config is None):
        raise ConfigError("give one of --benchmark (a name in `feddat list`) and --config (a file with `clients`)")
    say_loading()
    from dataclasses import replace

    from feddat.benchmarks import about_benchmark
    from feddat.benchmarks.baselines import majority_score, text_only_score
    from feddat.data.readers.medical import KIND
    from feddat.experiment import load_clients, pinned
    from feddat.report import federation
    from feddat.report.fitted import FittedTable

    settings = pinned(load_config(config) if benchmark is None else load_config(benchmark=benchmark))
    rows = []
    for data in load_clients(settings):
        text_only = text_only_score(replace(data, train=data.train[:: max(1, -(-len(data.train) // _TEXT_ONLY))]))
        rows.append(federation.describe(data, majority_score(data), text_only, KIND))
    if settings.benchmark is not None and not markdown:
        for line in shared_and_differs(about_benchmark(settings.benchmark)):
            out.print(Text(line), soft_wrap=True)
    if markdown:
        typer.echo(federation.to_markdown(rows), nl=False)
        return
    out.print(FittedTable(federation.HEADER, [list(map(Text, row)) for row in rows]))


@app.command("prepare")
def prepare(
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="A paper/* or medical/* name in `feddat list`.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")],
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="paper/*: folder of the published datasets (docs/data.md).")
    ] = None,
    model: Annotated[str, typer.Option(help="Model with the image processor and tokenizer: name or folder.")] = (
        "vilt-mini"
    ),
    train_examples: Annotated[
        int | None, typer.Option(min=1, help="paper/*: training questions per client.", show_default="2500")
    ] = None,
    test_examples: Annotated[
        int | None, typer.Option(min=1, help="paper/*: test questions per client.", show_default="500")
    ] = None,
    top_answers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Size of a client's answer list: its most frequent training answers.",
            show_default="100; medical/*: 500",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of questions.")] = 0,
    pictures: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="How to read images, for example grey=percentiles (docs/data.md)."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of processes that decode pictures.", show_default="one per core")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out questions whose image is missing or cannot be decoded.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace data prepared earlier.")] = False,
) -> None:
    """Build a federation from published files, decoded once for all runs with `benchmark=DIR`.

    After an interruption, the same command continues.
    """
    from feddat.benchmarks import medical
    from feddat.benchmarks.draw import Sizes
    from feddat.benchmarks.prepared import Request, is_prepared, read_manifest
    from feddat.config import ConfigError, load_config
    from feddat.models.named import pin_model

    settings = load_config(None, [f"pictures.{item}" for item in pictures or ()]).pictures
    sizes = Sizes()
    if benchmark in medical.MEDICAL:
        for option, given in (("root", root), ("train-examples", train_examples), ("test-examples", test_examples)):
            if given is not None:
                raise ConfigError(f"--{option}: {benchmark} comes from the Hub with its published splits; leave it out")
        sizes = replace(sizes, answers=medical.TOP_ANSWERS)
    counts = {"train": train_examples, "test": test_examples, "answers": top_answers}
    sizes = replace(sizes, **{name: count for name, count in counts.items() if count is not None})
    begun = None if overwrite else read_manifest(to)
    # A later call uses the dataset commits of the first call, even if their branches have moved.
    revisions = begun["request"].get("revisions", {}) if begun is not None else {}
    request = Request(benchmark, root, pin_model(model), seed, sizes, settings, revisions)
    if overwrite or not is_prepared(to, request):
        say_loading()
        from feddat.experiment.prepare import prepare
        from feddat.watching.live import PrepareDisplay

        with (
            interruptible(),
            PrepareDisplay(out, benchmark if root is None else f"{benchmark} from {root}") as display,
        ):
            prepare(request, to, jobs, skip_bad, overwrite, display)
    out.print(_counts((read_manifest(to) or {})["clients"]))
    print_paths(folder=to)


def _counts(clients: Mapping[str, Any]) -> Table:
    """Return a table of dropped and kept questions per client; all other questions were not drawn."""
    from feddat.data.readers.records import BLANK_VOTES

    caption = "outside: no answer is among the client's most frequent; broken: an image cannot be decoded"
    keys = ("published", "outside", "broken", "kept")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("client, split", overflow="fold", min_width=10)  # wrap names before numbers are cut
    for heading in (*keys, "skipped", "answers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for client, about in clients.items():
        for split, counts in about["counts"].items():
            skipped = sum(count for reason, count in counts["skipped"].items() if reason != BLANK_VOTES)
            numbers = [*(counts[key] for key in keys), skipped]
            answers = (len(about["answers"]) or "") if split == "train" else ""
            table.add_row(*(Text(str(cell)) for cell in (f"{client}, {split}", *numbers, answers)))
    return table
