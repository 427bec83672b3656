"""The progress of runs in a terminal: one line per run, and a table of clients for each active run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from feddat.report.fitted import UNLIMITED
from feddat.report.numbers import human_bytes, human_duration
from feddat.report.tables import NOT_SHARED
from feddat.watching.progress import ClientProgress, RunProgress

STYLES = {
    **{"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "bold red"},
    **{"answered": "green", "waiting": "cyan", "late": "bold yellow", "refused": "bold red", "idle": "dim"},
}


def progress_view(runs: Sequence[RunProgress], now: float, unreadable: Sequence[str] = ()) -> RenderableType:
    """Return the table of runs, and a table of clients for each active run, or for the only one.

    Args:
        runs: the runs that could be read.
        now: current time, in seconds since 1970.
        unreadable: why other runs could not be read; shown at the end.
    """
    parts: list[RenderableType] = [_RunsTable(runs, now)] if runs else []
    if not runs and not unreadable:
        return Text("no runs here yet", style="dim")
    for run in runs:
        if run.clients and (run.state == "running" or len(runs) == 1):
            parts += [Text(f"{run.name}{': ' * bool(run.doing)}{run.doing}", style="bold"), _clients_table(run.clients)]
        if run.reason:
            parts.append(Text(f"{run.name}: {run.reason}", style="red"))
    return Group(*parts, *(Text(f"cannot be read: {reason}", style="red") for reason in unreadable))


@dataclass(frozen=True, slots=True)
class _RunsTable:
    """The table of runs; if it is wider than the terminal, it omits the bytes, then the bars."""

    runs: Sequence[RunProgress]
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=UNLIMITED)
        for left_out in ((), _BYTES, (*_BYTES, _BAR)):
            table = self._table(left_out)
            if console.measure(table, options=unlimited).maximum <= options.max_width:
                break
        yield table

    def _table(self, left_out: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("run", overflow="fold", min_width=10)
        table.add_column("state", no_wrap=True)
        if _BAR not in left_out:
            table.add_column("", width=6, no_wrap=True)
        for heading in ("round", "score", *_BYTES, ""):
            if heading not in left_out:
                table.add_column(heading, justify="right", no_wrap=True)
        for run in self.runs:
            bar = ProgressBar(run.rounds, run.round, width=6, complete_style="cyan", finished_style="green")
            sent = [human_bytes(run.bytes[way]) if run.bytes else "" for way in _BYTES if way not in left_out]
            table.add_row(
                Text(run.name),
                Text(run.state, style=STYLES[run.state]),
                *([] if _BAR in left_out else [bar]),
                f"{run.round}/{run.rounds}",
                _score(run),
                *sent,
                _when(run, self.now),
            )
        return table


#: Columns that the table of runs omits in a narrow terminal.
_BYTES, _BAR = ("up", "down"), "bar"


def _score(of: RunProgress | ClientProgress) -> str:
    if of.score is not None:
        return f"{of.score:.1f} %"
    return "" if of.shares else NOT_SHARED


def _when(run: RunProgress, now: float) -> str:
    """Return when a run will be done, or when it last wrote to its log, as text."""
    if run.state == "running" and run.seconds_left is not None:
        return f"in {human_duration(run.seconds_left)}"
    return "" if run.updated is None else f"{human_duration(max(0.0, now - run.updated))} ago"


def _clients_table(clients: Sequence[ClientProgress]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("client", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("rounds trained", "failures", "score", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold", style="dim")
    for client in clients:
        table.add_row(
            Text(client.name),
            Text(client.state, style=STYLES[client.state]),
            str(client.rounds),
            str(client.troubles or ""),
            _score(client),
            "" if client.loss is None else f"{client.loss:.3f}",
            Text(client.detail),
        )
    return table
