"""What the help texts show in a terminal. `tests/docs/test_site.py` checks that all of them explain themselves."""

from __future__ import annotations

import pytest

from helpers import call


def test_help_shows_what_an_argument_means(capsys: pytest.CaptureFixture[str]) -> None:
    # click 8.5 dropped the help of arguments under typer 0.20.
    assert call("data", "pull", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "A paper/* or medical/* name in `feddat list`." in shown


def test_commands_are_listed_under_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {heading} ") for heading in ("Train and compare", "Results", "Data and models", "Deploy")]
    assert places == sorted(places)
    assert places[1] < shown.index("│ report ") < places[2] < shown.index("│ data ") < places[3]
    assert "─ Commands " not in shown
