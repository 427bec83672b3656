"""The ``feddat`` script: its commands, error handling and logging."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated, Any

import click
import typer

from feddat.cli import (
    auditing,
    bench,
    common,
    comparing,
    data,
    deploying,
    exporting,
    models,
    predicting,
    runs,
    studying,
    watching,
)
from feddat.cli.common import UNLIMITED, fail, out
from feddat.files import private_umask
from feddat.log import LOGGED_AS_EVENTS
from feddat.text import nearest

app = typer.Typer(
    suggest_commands=False,  # click does it, too
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated fine-tuning of vision-language foundation models with the Dual-Adapter Teacher (FedDAT).",
)
#: Heading in the help text -> commands below it.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train and compare": (
        *(comparing.demo, runs.run, comparing.compare, studying.study),
        *(studying.tune, studying.newcomers, comparing.real),
    ),
    "Results": (
        *(watching.status, watching.dashboard, runs.report, runs.evaluate),
        *(predicting.predict, exporting.export, auditing.audit),
    ),
    "Data and models": (runs.list_names, runs.settings, models.convert, models.pretrain),
}
#: Name of a group of commands -> the group, and its heading.
GROUPS = {
    "data": (data.app, "Data and models"),
    "models": (models.app, "Data and models"),
    "deploy": (deploying.app, "Deploy"),
    "bench": (bench.app, "Develop"),
}
for heading, commands in COMMANDS.items():
    for command in commands:
        app.command("list" if command is runs.list_names else None, rich_help_panel=heading)(command)
for name, (group, heading) in GROUPS.items():
    app.add_typer(group, name=name, rich_help_panel=heading)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: the entry point of the ``feddat`` script.

    An error that the user can act on prints one line to standard error and exits with code 2. ``--debug``, anywhere on
    the line, shows its traceback, and those of clients that fail in this process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    common.command_line[:] = arguments
    code: Any
    try:
        code = app([a for a in arguments if a != "--debug"], prog_name="feddat", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.NoSuchOption as error:
        sys.exit(fail(_as_setting(error) or error.format_message(), error.exit_code))
    except click.ClickException as error:
        sys.exit(fail(error.format_message(), error.exit_code))
    except click.Abort:
        code = 130
    except Exception as error:
        if debug:
            raise
        code = fail(*_explain(error, arguments))
    if code == 130:  # typer's answer to Ctrl-C
        code = fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception, arguments: list[str]) -> tuple[str, int]:
    """Return one line about an error and the exit code: 2 if the user can fix it, 1 for a fault of the program."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("feddat."):
        return text + _options(getattr(error, "unknown", ()), arguments), 2
    if isinstance(error, OSError):
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text
        return named, 2
    return f"unexpected {type(error).__name__}: {text} (--debug shows the traceback)", 1


def _as_setting(error: click.NoSuchOption) -> str:
    """Return a message if an unknown option is a setting and not a mistyped option of the command; otherwise empty."""
    from feddat.config import RunConfig
    from feddat.config.described import every_key

    takes = error.ctx is not None and any(parameter.name == "overrides" for parameter in error.ctx.command.params)
    name = error.option_name.lstrip("-").replace("-", "_")
    keys = [key for key, _ in every_key(RunConfig) if f".{key}".endswith(f".{name}")] if takes else []
    if not keys or nearest(error.option_name, error.possibilities or ()):
        return ""
    return f"{error.message} Settings have no dashes: {' or '.join(f'{key}=VALUE' for key in keys)}"


def _options(unknown: Sequence[str], arguments: list[str]) -> str:
    """Return a hint if an unknown setting may have been meant as an option of the command; otherwise empty."""
    command: Any = typer.main.get_command(app)
    names = []
    for argument in arguments:
        command = command.commands.get(argument) if isinstance(command, click.Group) else None
        if command is None:
            break
        names.append(argument)
        options = [option.lstrip("-") for parameter in command.params for option in parameter.opts]
    near = [option for key in unknown for option in nearest(key.replace("_", "-"), options)] if names else []
    if not near:
        return ""
    return f" (--{near[0]} is an option of `feddat {' '.join(names)}`)"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"feddat {metadata.version('feddat')}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors, and of clients that fail in this process.")
    ] = False,
) -> None:
    """Make new files private, send the package's log to standard error, and silence notes of libraries."""
    try:
        private_umask()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = UNLIMITED  # do not cut lines on their way to a file or another program
    notes = "ignore::FutureWarning:transformers.modeling_utils"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), notes]))  # for workers
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.modeling_utils")
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("feddat")
    logger.handlers = [handler]
    logger.propagate = False
    for room in ("data", "models"):
        logging.getLogger(f"feddat.{room}").setLevel(logging.INFO)
    # The live displays show these themselves.
    for name in LOGGED_AS_EVENTS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if "--debug" in common.command_line:
        for name in ("feddat.app.client", "feddat.app.grid"):  # they have the tracebacks of clients' failures
            logging.getLogger(name).setLevel(logging.DEBUG)


class _Stderr:
    """Looks up standard error at each write, since a live display replaces it to draw below the text."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()
