"""What the help texts say: every argument and option is explained, in the terminal and in the generated reference."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer.main

from feddat.cli.program import app
from helpers import call


def every_command(command: click.Command, path: str = "feddat") -> Iterator[tuple[str, click.Command]]:
    """Yield each command of the help that does something, with its full name."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from every_command(child, f"{path} {name}")
    else:
        yield path, command


COMMANDS = dict(every_command(typer.main.get_command(app)))


def test_help_shows_what_an_argument_means(capsys: pytest.CaptureFixture[str]) -> None:
    # click 8.5 dropped the help of arguments under typer 0.20.
    assert call("data", "pull", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "A paper/* or medical/* name in `feddat list`." in shown


@pytest.mark.parametrize("path", COMMANDS)
def test_every_argument_and_option_has_a_help_text(path: str) -> None:
    for parameter in COMMANDS[path].params:
        if not getattr(parameter, "hidden", False):
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def test_commands_are_listed_under_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {heading} ") for heading in ("Train and compare", "Results", "Data and models", "Deploy")]
    assert places == sorted(places)
    assert places[1] < shown.index("│ report ") < places[2] < shown.index("│ data ") < places[3]
    assert "─ Commands " not in shown
