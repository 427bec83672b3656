"""Live progress of runs and comparisons: a moving display in a terminal, occasional plain lines elsewhere.

Displays are context managers, and callables that take the event dictionaries of an experiment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from feddat.report.fitted import UNLIMITED
from feddat.report.numbers import human_duration
from feddat.report.tables import NOT_SHARED, own_route

Event: TypeAlias = Mapping[str, Any]

#: Without a terminal: the least number of seconds between two lines.
PLAIN_INTERVAL = 5.0
#: Count of parameters -> its description in print.
_PARAMETERS = {"total": "in the model", "trainable": "trained", "communicated": "sent per round"}
#: Colours of progress bars.
_BAR: dict[str, Any] = {"complete_style": "cyan", "finished_style": "green", "pulse_style": "cyan"}


class Display:
    """Base class of all displays: draw in a terminal, or print lines.

    Args:
        console: where to draw.
        title: the first line.
        clock: returns the time in seconds; replaced in tests.
    """

    def __init__(self, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.title = title
        self._clock = clock
        self._live: Live | None = None
        self._last_line = float("-inf")
        self._noted: set[str] = set()
        self._started = clock()

    def __enter__(self) -> Self:
        self._started = self._clock()
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self.say(self.title, important=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def render(self) -> RenderableType:
        """Return the current display."""
        raise NotImplementedError

    def say(self, line: str, important: bool = False) -> None:
        """Without a terminal, print a line, unless it is unimportant and the last one is only moments old."""
        now = self._clock()
        if self.console.is_terminal or (not important and now - self._last_line < PLAIN_INTERVAL):
            return
        self._last_line = now
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, event: Event) -> None:
        """Print what went wrong with one client, above the display."""
        who = (
            f"client {event['client']} {event['event']}" if "client" in event else "the global adapter stays as it was"
        )
        text = f"warning: round {event['round']}: {who}: {event['reason']}"
        self.console.print(Text(text, style="yellow"), soft_wrap=True)

    def note(self, event: Event) -> None:
        """Print a grave problem with a client's data once, above the display."""
        if event["grave"] and event["reason"] not in self._noted:
            self._noted.add(event["reason"])
            self.console.print(Text(f"warning: {event['reason']}", style="yellow"), soft_wrap=True)

    def times(self, seconds_left: float | None) -> str:
        """Return the time spent and, if known, the time left, as text."""
        spent = human_duration(self._clock() - self._started)
        return spent if seconds_left is None else f"{spent}, about {human_duration(seconds_left)} left"


class RunDisplay(Display):
    """Show one run: a bar of its rounds, and the last losses and scores of every client."""

    def __init__(self, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, title, clock)
        self._round = self._rounds = 0
        self._left: float | None = None
        self._mean: float | None = None
        self._split = ""
        self._doing = "preparing model and data"
        self._clients: list[str] = []
        self._losses: dict[str, Mapping[str, float]] = {}
        self._scores: dict[str, Mapping[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Take one event."""
        kind = event["event"]
        if event.get("seconds_left") is not None:
            self._left = event["seconds_left"]
        if kind == "start":
            self._round, self._rounds, self._clients = event["round"], event["rounds"], list(event["clients"])
            self._tell_parameters(event["parameters"])
        elif kind == "fit":
            self._losses[event["client"]] = {k: v for k, v in event["metrics"].items() if _is_loss(k)}
            self._doing = f"round {event['round']}: {event['client']} has trained"
        elif kind == "eval":
            if event["scores"] or event["examples"] != 0:
                self._scores[event["client"]] = event["scores"]
            self._doing = f"round {event['round']}: {event['client']} is evaluated"
        elif kind == "round":
            self._finish_round(event)
        elif kind in ("failed", "refused", "kept"):
            self.warn(event)
        elif kind == "data":
            self.note(event)

    def _tell_parameters(self, counts: Mapping[str, int]) -> None:
        """Print the numbers of parameters, above the display."""
        parts = (f"{counts[key]:,} {word}" for key, word in _PARAMETERS.items())
        self.console.print(Text(f"parameters: {', '.join(parts)}", style="dim"), soft_wrap=True)

    def _finish_round(self, event: Event) -> None:
        self._round, self._rounds = event["round"], event["rounds"]
        self._doing = ""
        parts = [f"round {self._round}/{self._rounds}"]
        for split, scores in event["scores"].items():
            self._mean, self._split = scores[own_route(scores)] if scores else None, split
            parts.append(f"mean {split} score {self._mean:.1f} %" if self._mean is not None else f"scores {NOT_SHARED}")
        parts += [f"{name} {value:.3f}" for name, value in event["metrics"].items() if name == "loss"]
        self.say(" · ".join([*parts, self.times(self._left)]), important=self._round in (1, self._rounds))

    def render(self) -> RenderableType:
        """Return the title, the bar and the table."""
        bar = Table.grid(padding=(0, 2))
        count = f"round {self._round}/{self._rounds}" if self._rounds else "starting"
        mean = f"scores {NOT_SHARED}" if self._split else ""
        if self._mean is not None:
            mean = f"mean {self._split} score [bold]{self._mean:.1f} %[/]"
        width = 32 if self.console.width >= _ROOMY else 8
        progress = ProgressBar(total=self._rounds or 1, completed=self._round, width=width, **_BAR)
        bar.add_row(count, progress, mean, Text(self.times(self._left), style="dim"))
        parts: list[RenderableType] = [Text(self.title, style="bold"), bar]
        clients = list(dict.fromkeys([*self._clients, *self._losses]))
        if clients:
            parts.append(self._table(clients))
        return Group(*parts, Text(self._doing, style="dim"))

    def _table(self, clients: list[str]) -> Table:
        routes = list(dict.fromkeys(route for scores in self._scores.values() for route in scores))
        if self._scores and not routes:
            routes = ["score"]
        losses = list(dict.fromkeys(name for values in self._losses.values() for name in values))
        table = self._with_losses(clients, routes, losses)
        while len(losses) > 1 and self._is_too_wide(table):
            losses.pop()
            table = self._with_losses(clients, routes, losses)
        return table

    def _is_too_wide(self, table: Table) -> bool:
        options = self.console.options.update(max_width=UNLIMITED)
        return self.console.measure(table, options=options).maximum > self.console.width

    def _with_losses(self, clients: Sequence[str], routes: Sequence[str], losses: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("client", overflow="fold")
        for place, route in enumerate(routes):
            table.add_column(route, justify="right", no_wrap=True, style="bold" if place == 0 else "")
        for name in losses:
            table.add_column(name.replace("_", " "), justify="right", no_wrap=True, style="dim")
        for client in clients:
            scores, values = self._scores.get(client, {}), self._losses.get(client, {})
            cells = [f"{scores[route]:.1f} %" if route in scores else "" for route in routes]
            if client in self._scores and not scores:
                cells[0] = NOT_SHARED
            cells += [_short(values[name]) if name in values else "" for name in losses]
            table.add_row(Text(client), *cells)
        return table


class ComparisonDisplay(Display):
    """Show several runs: one line each, and the time left for all of them.

    If the terminal has too few lines, show only running and failed runs.

    Args:
        console: where to draw.
        title: the first line.
        runs: run name -> its label, seed and number of rounds.
        clock: returns the time in seconds; replaced in tests.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        runs: Mapping[str, tuple[str, int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, title, clock)
        self._lines = {name: _Line(*described) for name, described in runs.items()}
        self._first_start: float | None = None

    def __call__(self, event: Event) -> None:
        """Take one event; its ``run`` names the run that sent it."""
        line = self._lines[event["run"]]
        kind = event["event"]
        if kind == "start":
            # Rounds that a resumed run had done before cost no time now.
            line.state, line.done, line.before = "running", event["round"], event["round"]
            if self._first_start is None:
                self._first_start = self._clock()
        elif kind == "round":
            line.done, line.losses = event["round"], event["metrics"]
            for scores in event["scores"].values():
                line.mean = scores[own_route(scores)] if scores else line.mean  # private runs share no scores
            self._tell(line)
        elif kind == "done":
            self.finish(event["run"], event["summary"]["mean"])
        elif kind == "failure":
            line.state = "failed"
            self.console.print(
                Text(f"warning: run {event['run']} failed: {event['reason']}", style="red"), soft_wrap=True
            )
        elif kind in ("failed", "refused", "kept"):
            self.warn(event)
        elif kind == "data":
            self.note(event)

    def finish(self, run: str, mean: float | None, before: bool = False) -> None:
        """Mark a run as finished with its final score, now or already ``before`` this comparison began."""
        line = self._lines[run]
        line.done, line.mean, line.state = line.rounds, mean, "done"
        if before:
            line.before = line.rounds
        else:
            self._tell(line, important=True)

    def seconds_left(self) -> float | None:
        """Return the time left for all runs, from the pace since training began; ``None`` before the first round."""
        done = sum(line.done - line.before for line in self._lines.values())
        left = sum(line.rounds - line.done for line in self._lines.values() if line.state != "failed")
        if done <= 0 or self._first_start is None:
            return None
        return (self._clock() - self._first_start) / done * left

    def _count(self) -> str:
        return f"{sum(line.state == 'done' for line in self._lines.values())} of {len(self._lines)} runs done"

    def _tell(self, line: _Line, important: bool = False) -> None:
        where = "finished" if line.state == "done" else f"round {line.done}/{line.rounds}"
        mean = f", mean score {line.mean:.1f} %" if line.mean is not None else ""
        text = f"{line.label} seed {line.seed}: {where}{mean} · {self._count()} · {self.times(self.seconds_left())}"
        self.say(text, important)

    def render(self) -> RenderableType:
        """Return the title, one line per run, and the overall bar."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        bar = 20 if self.console.width >= _ROOMY else 8
        table.add_column("method", overflow="fold")  # wrap the name before cutting a number
        table.add_column("seed", justify="right", no_wrap=True)
        table.add_column("progress", width=bar, no_wrap=True)
        table.add_column("round", justify="right", no_wrap=True)
        table.add_column("mean score", justify="right", no_wrap=True, style="bold")
        table.add_column("loss", justify="right", no_wrap=True, style="dim")
        table.add_column("", no_wrap=True)
        lines = list(self._lines.values())
        if len(lines) > self.console.height - _OTHER_LINES:
            lines = [line for line in lines if line.state in ("running", "failed")]
        for line in lines:
            table.add_row(
                Text(line.label),
                str(line.seed),
                ProgressBar(total=line.rounds, completed=line.done, width=bar, **_BAR),
                f"{line.done}/{line.rounds}",
                f"{line.mean:.1f} %" if line.mean is not None else "",
                f"{line.losses['loss']:.3f}" if "loss" in line.losses else "",
                Text(line.state, style=_STYLES.get(line.state, "dim")),
            )
        total = Table.grid(padding=(0, 2))
        done = sum(line.done for line in self._lines.values())
        whole = ProgressBar(total=sum(line.rounds for line in self._lines.values()), completed=done, width=32, **_BAR)
        total.add_row(self._count(), whole, Text(self.times(self.seconds_left()), style="dim"))
        return Group(Text(self.title, style="bold"), table, total)


#: Terminals with at least this many columns show long bars.
_ROOMY = 96
#: Lines that a comparison's display needs besides those of its runs.
_OTHER_LINES = 7
_STYLES = {"done": "green", "running": "cyan", "failed": "red"}


@dataclass
class _Line:
    """What is known about one run of a comparison; ``before``: rounds it had done when the comparison started."""

    label: str
    seed: int
    rounds: int
    state: str = "waiting"
    done: int = 0
    before: int = 0
    mean: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


def _is_loss(name: str) -> bool:
    """Return whether a training metric is a loss, rather than a count or a time."""
    return name == "loss" or name.startswith(("task", "kl"))


def _short(value: float) -> str:
    """Return a loss with its significant digits: 1.234 or 1.2e-05."""
    return f"{value:.3f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


class PrepareDisplay(Display):
    """Show how a federation is prepared: a bar of images per client."""

    def __init__(self, console: Console, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, title, clock)
        self._images: dict[str, tuple[int, int]] = {}
        self._reading: str | None = None
        self._began = clock()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        client = event["client"]
        if event["event"] == "reading":
            self._reading = client
            self.say(f"{client}: reading questions", important=True)
            return
        if self._reading is not None:
            self._reading, self._began = None, self._clock()
        self._images[client] = event["done"], event["total"]
        if event["done"]:
            done = event["done"] == event["total"]
            self.say(f"{client}: {event['done']}/{event['total']} images · {self.times(self._left())}", important=done)

    def _left(self) -> float | None:
        done, total = (sum(counts) for counts in zip(*self._images.values(), strict=True))
        return (self._clock() - self._began) / done * (total - done) if done else None

    def render(self) -> RenderableType:
        """Return the title and the bars."""
        bars = Table.grid(padding=(0, 2))
        for client, (done, total) in self._images.items():
            progress = ProgressBar(total=total or 1, completed=done if total else 1, width=32, **_BAR)
            bars.add_row(Text(client), progress, Text(f"{done}/{total} images", style="dim"))
        doing = f"{self._reading}: reading questions" if self._reading else self.times(self._left())
        return Group(Text(self.title, style="bold"), bars, Text(doing, style="dim"))
