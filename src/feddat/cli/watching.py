"""Commands that show runs during or after training."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from feddat.cli.common import Json, out, print_json

RunsDir = Annotated[Path, typer.Argument(metavar="[RUNS_DIR]", help="Folder of a run, or a folder with runs below it.")]


def status(
    runs: RunsDir = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep updating until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="With --watch: time between updates.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Show the progress of runs: rounds, clients that answered, are late or failed, bytes, scores, time left.

    With --json and --watch, print a line of JSON per update.
    """
    from feddat.watching.progress import read_all
    from feddat.watching.status import progress_view

    if as_json:
        with suppress(KeyboardInterrupt):
            while True:
                now = time.time()
                found, unreadable = read_all(runs, now)
                state = {"folder": str(runs), "now": now, "runs": [run.to_json() for run in found]}
                state["unreadable"] = list(unreadable)
                print_json(state, line=watch)
                if not watch:
                    return
                time.sleep(every)

    def picture() -> RenderableType:
        now = time.time()
        found, unreadable = read_all(runs, now)
        return progress_view(found, now, unreadable)

    if not watch:
        out.print(picture())
        return
    with suppress(KeyboardInterrupt), Live(picture(), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(picture(), refresh=True)


def dashboard(
    runs: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0: any free port.")] = 8642,
) -> None:
    """Show the progress of runs on a web page of this machine, until Ctrl-C."""
    from feddat.watching.dashboard import Dashboard
    from feddat.watching.progress import find_runs

    find_runs(runs)  # report a missing folder first
    with Dashboard(runs, port) as server:
        out.print(f"{runs}: [bold]{server.url}[/] (Ctrl-C to end)", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
