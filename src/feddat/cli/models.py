"""Commands about model folders: ``feddat models``, pretraining, and conversion of published weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from feddat.cli.common import Config, Json, Overrides, interruptible, out, print_json, print_paths, say_loading

app = typer.Typer(
    no_args_is_help=True,
    suggest_commands=False,
    help="List, fetch and check models, and make small ones to try a family.",
)


@app.command("make-tiny")
def make_tiny(
    family: Annotated[
        str,
        typer.Argument(
            metavar="FAMILY",
            help="Family: vilt, blip, albef, clip, smolvlm, qwen2_vl, ...",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model folder to write.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="size=bundled (about as vilt-mini) or size=unit; also hidden, layers, heads, image, patch, tokens and "
            "seed.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a small model of a family with random weights; its tokenizer knows the words of the mini suite."""
    say_loading()
    from feddat.models.tiny import make_tiny as make
    from feddat.models.tiny.settings import parse_settings

    print_paths(folder=make(family, folder, parse_settings(overrides or [])))


@app.command("list")
def list_known() -> None:
    """List the bundled models, and models of the Hub that are known to work, with sizes and licences."""
    from feddat.models.catalog import list_models
    from feddat.models.known import ELSEWHERE, KNOWN

    for name, description in list_models().items():
        out.print(Text.assemble((name, "cyan"), f"  bundled: {description}"), soft_wrap=True)
    table = Table("model", "family", "licence", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("million parameters", "FedDAT trains", "GB to download", "least GB of a step"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, known in KNOWN.items():
        numbers = (f"{known.parameters:,.1f}", f"{known.trained:.1f}", f"{known.file:.2g}", f"{known.least_memory:.1f}")
        table.add_row(Text(name, "cyan"), known.family, known.licence, *numbers, known.note)
    # Do not cut names, so that they can be copied; a narrow terminal wraps lines instead.
    table.width = Measurement.get(out, out.options.update_width(1000), table).maximum
    out.print(table, soft_wrap=True, crop=False)
    out.print(
        "Least memory: weights in float32 and training state, without activations; `feddat models check NAME` measures "
        "a step. Other models of these families load the same way.",
        soft_wrap=True,
    )
    for name, how in ELSEWHERE.items():
        out.print(Text.assemble((name, "cyan"), f"  {how}"), soft_wrap=True)


@app.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="owner/name[@revision] on the Hub.")],
) -> None:
    """Fetch models of the Hub into its cache; files in the cache are not fetched again."""
    from feddat.hub import is_offline
    from feddat.models.base import ModelError
    from feddat.models.named import fetch_model, model_address, offer

    for name in names:
        address = model_address(name)
        if address is None:
            raise ModelError(f"model {name!r}: expected owner/name[@revision] on the Hub, not a local folder")
        if not is_offline():
            found = offer(address)
            about = found.repository
            size = _size(sum(found.files.values()))
            gate = ", gated" if about.gated else ""
            said = f"{about.address}: {len(found.files)} files, {size}, licence {about.licence or 'not stated'}{gate}"
            out.print(Text(said), soft_wrap=True)
        folder, pinned = fetch_model(address)
        out.print(Text.assemble((f"{'model':<8}", "dim"), str(pinned)), soft_wrap=True)
        print_paths(folder=folder)


@app.command("check")
def check(
    folder: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, name of a bundled model, or owner/name on the Hub.")
    ],
    overrides: Overrides = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show a model's family, the parameters to train and send, and the cost of one step on made-up data."""
    from feddat.config import load_config

    settings = load_config(config, overrides, model=folder)
    if not as_json:
        say_loading()
    from feddat.experiment.model_check import check_model
    from feddat.models.named import pin_model

    settings = settings.updated({"model": pin_model(settings.model)})

    found = check_model(settings)
    if as_json:
        content = asdict(found)
        content["memory"]["least"] = found.memory.least
        print_json(content)
        return
    written = {"classes": "classes", "rank": "written, ranked from a list", "generate": "written freely"}
    rows = {"model": found.model, "weights": f"hash {found.weights}", "family": found.family}
    rows["answers"] = written[found.answers]
    sites = [f"{count:>5,}  {name}" for name, count in found.sites.items()]
    rows["adapters"] = f"{found.kind}, {sum(found.sites.values())} sites"
    for label, text in rows.items():
        out.print(Text.assemble((f"{label:<10}", "dim"), text), soft_wrap=True)
    for line in sites:
        out.print(f"          {line}", soft_wrap=True, highlight=False)
    table = Table("parameters", box=box.SIMPLE)
    for column in ("total", "trained", "personal", "sent"):
        table.add_column(column, justify="right")
    for method, counts in found.parameters.items():
        values = (counts[key] for key in ("total", "trainable", "personal", "communicated"))
        table.add_row(method, *(f"{value:,}" for value in values))
    out.print(table)
    for method, reason in found.left_out.items():
        out.print(f"[dim]{method} is not shown: {reason}[/]", soft_wrap=True)
    memory = found.memory
    least = f"at least {_size(memory.least)}: weights {_size(memory.weights)}, gradients and AdamW's moments "
    least += f"{_size(memory.training)}, kept for backward passes {_size(memory.saved)}"
    out.print(Text.assemble((f"{'memory':<10}", "dim"), least), soft_wrap=True)
    if memory.peak is not None and memory.before is not None:
        measured = f"measured on {settings.device}: peak {_size(memory.peak)}, {_size(memory.before)} before the step"
        out.print(f"          {measured}", soft_wrap=True, highlight=False)
    step = f"{found.method}, {found.batch_size} made-up questions: loss {found.loss:.4g} in {found.seconds:.2f} s"
    out.print(Text.assemble((f"{'one step':<10}", "dim"), step), soft_wrap=True)


def _size(count: int) -> str:
    """Return a number of bytes with a unit."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def pretrain(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for checkpoints and log; the model is in DIR/model.")
    ],
    overrides: Overrides = None,
) -> None:
    """Pretrain a small ViLT (or family=albef) on the plain mini world; the same command again resumes.

    vilt-mini and albef-mini were made this way.
    """
    from feddat.pretrain.train import parse_settings
    from feddat.pretrain.train import pretrain as train

    settings = parse_settings(overrides or [])

    def show(event: dict[str, Any]) -> None:
        losses = "  ".join(f"{key} {value:.3f}" for key, value in event["losses"].items())
        quality = "  ".join(f"{key} {value:.0f} %" for key, value in event["quality"].items())
        left = f"{event['seconds_left'] / 60:.0f} min left"
        out.print(f"[bold]step {event['step']}/{event['steps']}[/]  {left}  {losses}", soft_wrap=True)
        if quality:
            out.print(f"  [cyan]{quality}[/]", soft_wrap=True)

    with interruptible():
        quality = train(folder, settings, show)
    for name, value in quality.items():
        out.print(f"{name:<20}{value:6.1f} %")
    print_paths(model=folder / "model")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="ALBEF's .pth (file or URL), or a model with pickled weights (folder or owner/name).",
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Model folder to write.")],
    bert: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="ALBEF: google-bert/bert-base-uncased, or a folder with a copy of it."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, help="ALBEF: side of the input images in pixels.")] = 384,
) -> None:
    """Convert weights published as pickles to a model folder with safetensors, for `model=DIR`.

    Only tensors are read; no code in the file is run.
    """
    say_loading()
    from feddat.models.named import model_address
    from feddat.models.pickles import convert_pickles, fetch_pickles

    address = None if "://" in source and not source.startswith("hf://") else model_address(source)
    if address is not None or Path(source).is_dir():
        weights = convert_pickles(Path(source) if address is None else fetch_pickles(address), to)
        out.print(f"weights written to {', '.join(weights)}", soft_wrap=True)
        print_paths(folder=to)
        return
    from feddat.models.albef.convert import convert as make_folder
    from feddat.models.base import ModelError

    if bert is None:
        raise ModelError(
            "--bert is missing: ALBEF uses BERT's tokenizer; give google-bert/bert-base-uncased or a folder"
        )
    report = make_folder(_checkpoint(source), _words(bert), to, image_size)
    out.print(f"position embeddings for {report.image_size} pixels, answer decoder from the {report.decoder}")
    parts = Counter(name.partition(".")[0] for name in report.unused)
    unused = ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"
    out.print(f"tensors not used: {unused}", soft_wrap=True)
    print_paths(folder=to)


def _checkpoint(source: str) -> Path:
    """Return a checkpoint file; fetch it first if ``source`` is a URL."""
    if "://" not in source:
        return Path(source)
    from feddat.cli.pulling import show_download
    from feddat.hub.client import cache_folder

    return show_download(source, cache_folder() / "feddat-downloads" / source.rpartition("/")[2])


def _words(bert: str) -> Path:
    """Return a folder with BERT's configuration and tokenizer; from the Hub, fetch them without the weights."""
    from feddat.hub import fetch
    from feddat.models.named import model_address

    address = model_address(bert)
    return Path(bert) if address is None else fetch(address, ["*.json", "*.txt"], ["*/*"])[0]
