"""Shared parts of the commands: consoles, common options, and the handling of Ctrl-C."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from feddat.benchmarks.catalog import About
    from feddat.config import RunConfig

out = Console()
err = Console(stderr=True)
#: Columns if the output is not a terminal, so that nothing is cut on its way to a file or another program.
UNLIMITED = 100_000

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file with settings, or a preset in `feddat list`.", metavar="FILE"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for example rounds=10 train.lr=1e-3.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Number of runs at the same time.", show_default="one per core")]
Benchmark = Annotated[str | None, typer.Option("--benchmark", "-b", help="Name in `feddat list`.")]
Tune = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=V1,V2,...",
        help="Values to try: each method first gets its best ones on validation data ('K1=V,... K2=V,...' is a grid). "
        "Or a tuning.json with an earlier choice.",
    ),
]
Record = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="File with a line of JSON per finished run. Runs in it are not repeated; runs that finish are added. "
        "Further files are only read.",
    ),
]
#: Methods that commands compare by default.
METHODS = "feddat,fedavg,local,head"


def methods_option(show_default: bool | str = True) -> Any:
    """Return ``--methods``."""
    return typer.Option("--methods", "-m", help="Names in `feddat list`, comma-separated.", show_default=show_default)


def name_option(show_default: str) -> Any:
    """Return ``--name`` of a command with many runs."""
    return typer.Option(help="Folder below runs_dir.", show_default=show_default)


Methods = Annotated[str, methods_option()]
Seeds = Annotated[
    str, typer.Option(metavar="N|LIST", help="Seeds of each method: 3 for 0, 1 and 2; 10-12 or 10,11,12 for these.")
]


def fail(message: str, code: int) -> int:
    """Print an error to standard error and return the exit code."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    return code


def settings_of(config: Path | None, overrides: Overrides, benchmark: str | None, name: str | None) -> RunConfig:
    """Return the settings of a command with many runs.

    Args:
        config: file of ``--config``.
        overrides: settings on the command line.
        benchmark: value of ``--benchmark``.
        name: value of ``--name``.

    Raises:
        ConfigError: a setting cannot be used, or sets one method; these commands take several.
    """
    from feddat.config import ConfigError, load_config

    for override in overrides or ():
        if override.partition("=")[0].strip() == "method":
            raise ConfigError(f"{override}: set methods with --methods NAME,NAME,...")
    values = {key: value for key, value in {"benchmark": benchmark, "name": name}.items() if value is not None}
    return load_config(config, overrides, **values)


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated list, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def split_seeds(text: str) -> list[int]:
    """Return the seeds of ``--seeds``: ``N`` means the first N, ``A-B`` and ``A,B,...`` name them.

    Raises:
        typer.BadParameter: the text is none of these, or no seed is left.
    """
    if re.fullmatch("[0-9]{1,9}", text) and int(text):
        return list(range(int(text)))
    seeds: list[int] = []
    for part in text.split(",") if {",", "-"} & set(text) else [""]:
        found = re.fullmatch(" *([0-9]{1,9})(?:-([0-9]{1,9}))? *", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise typer.BadParameter(
                f"{text!r}: expected a number of seeds from 1, or seeds such as 10-12 or 10,11,12",
                param_hint="'--seeds'",
            )
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


class Interrupted(click.ClickException):
    """The user stopped a command that can be continued later."""

    exit_code = 130


#: Command line of this process, without the program's name.
command_line: list[str] = []


@contextmanager
def interruptible(way_on: str | None = None) -> Iterator[None]:
    """On Ctrl-C, print the command that continues; by default the same command without ``--overwrite``."""
    try:
        yield
    except KeyboardInterrupt:
        if way_on is None:
            way_on = shlex.join(["feddat", *(word for word in command_line if word != "--overwrite")])
        raise Interrupted(f"interrupted; finished work is kept; continue with: {way_on}") from None


def print_json(value: Any, line: bool = False) -> None:
    """Print a value as JSON and nothing else; with ``line``, on one line."""
    typer.echo(json.dumps(value, indent=None if line else 2, ensure_ascii=False, allow_nan=False))


def say_loading() -> None:
    """Print a message before the libraries load, which takes seconds."""
    if out.is_terminal:
        out.print("[dim]loading libraries …[/]", end="\r")


def say_recommended(settings: RunConfig) -> None:
    """Print the settings that come from the bundled model rather than from the user."""
    from feddat.config.recommended import RECOMMENDED

    own = {k: v for k, v in RECOMMENDED.get(settings.model, {}).items() if settings.value(k) == v}
    if own:
        values = " ".join(f"{key}={value}" for key, value in own.items())
        out.print(f"defaults for {settings.model}: {values}", style="dim", highlight=False)


def warn_without_effect(configs: Sequence[RunConfig]) -> None:
    """Warn about settings of methods that none of these runs reads."""
    from feddat.experiment.single.methods import without_effect

    if keys := without_effect(configs):
        who = f"method {configs[0].method} does not read" if len(configs) == 1 else "none of the methods reads"
        say_warning(f"{', '.join(keys)}: no effect, since {who} {'them' if len(keys) > 1 else 'it'}")


def say_warning(text: str) -> None:
    """Print a warning for the user to standard error."""
    err.print(Text.assemble(("warning: ", "bold yellow"), text), soft_wrap=True)


def shared_and_differs(about: About) -> list[str]:
    """Return lines about what the clients of a benchmark share, and what differs between them."""
    return [f"shared: {about.shared}", f"differs: {about.differs}"]


def print_notes(summaries: Sequence[Mapping[str, Any]], data: bool = True) -> None:
    """Print what the means leave out and, with ``data``, a table of clients' data that does not count as expected."""
    from feddat.report import data_table
    from feddat.report.left_out import left_out

    for sentence in left_out(summaries):
        say_warning(sentence)
    if data and (table := data_table.data_table(summaries)) is not None:
        out.print(data_table.to_rich(table))


def print_paths(**paths: Path) -> None:
    """Print the paths of results, one labelled line each."""
    for label, path in paths.items():
        out.print(Text.assemble((f"{label:<8}", "dim"), str(path)), soft_wrap=True)
