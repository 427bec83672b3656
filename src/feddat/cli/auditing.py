"""``feddat audit``: what a curious server or client finds out from a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from feddat.cli.common import Config, err, out, print_json, print_paths, say_loading, split_names

if TYPE_CHECKING:
    from feddat.experiment import Experiment

#: Exit code of an audit that found more than was allowed.
EXCEEDED = 3
#: Seconds between two lines of progress without a terminal.
_INTERVAL = 5.0
#: Kind of client in a reconstruction's results -> what the terminal says.
_CLIENTS = {
    "without_policy": "client that obeys",
    "with_policy": "client with the default policy",
    "this_run": "client with this run's settings",
}


def audit(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN | KEY=VALUE...]",
            help="Folder of a run, or settings of a run that has not been made yet.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    views: Annotated[
        str,
        typer.Option(
            help="Attackers, separated by commas: server (sees each update), sum (sees only the sum of the updates: "
            "another client, or the server under secure aggregation), model (has a client's personal model)."
        ),
    ] = "server,sum",
    examples: Annotated[int, typer.Option(min=8, help="Training questions to attack per client.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to attack, spread over the run.")] = 5,
    canaries: Annotated[
        int, typer.Option(min=0, help="Planted training questions (canaries) per client, in a second run; 0: none.")
    ] = 40,
    properties: Annotated[
        int, typer.Option(min=0, help="Shadow clients that show how answers and kinds of question leak; 0: none.")
    ] = 40,
    reconstruction: Annotated[
        bool,
        typer.Option(
            help="Rebuild pictures and words from messages to a dishonest server: with this run's settings, the "
            "default policy, and none."
        ),
    ] = True,
    matching: Annotated[
        int, typer.Option(min=0, help="Steps of each reconstruction by gradient matching; 0: none.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every choice that the attackers make.")] = 0,
    max_auc: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail if the AUC of a membership attack is higher.")
    ] = None,
    max_tpr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Fail if an attack finds a larger share of the members, at 1 % false positives."
        ),
    ] = None,
    max_epsilon: Annotated[float | None, typer.Option(min=0, help="Fail if canaries show that ε is higher.")] = None,
    max_reconstructed: Annotated[
        int | None,
        typer.Option(min=0, help="Fail if, with this run's settings, an attack rebuilds more pieces from one message."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for audit.html and audit.json.", show_default="RUN/audit"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Also print the results as JSON.")] = False,
) -> None:
    """Attack a run as a curious server or client would, and report what they find out.

    The run is repeated on this machine, with every client's data. Exit code 3: a figure is above a limit. See
    docs/audit.md.
    """
    from feddat.config import ConfigError

    if canaries == 0 and max_epsilon is not None:
        raise ConfigError("--max-epsilon: canaries measure it; leave out --canaries 0")
    if not reconstruction and max_reconstructed is not None:
        raise ConfigError("--max-reconstructed: reconstruction measures it; leave out --no-reconstruction")
    folder = _run_folder(what or [])
    if folder is not None and config is not None:
        raise ConfigError(f"--config: the run in {folder} has its own settings; give only one of the two")
    say_loading()
    from feddat.audit.limits import Limits, exceeded
    from feddat.audit.run import Plan
    from feddat.audit.run import audit as attack
    from feddat.audit.write import write

    experiment = _experiment(folder, config, what or [])
    plan = Plan(tuple(split_names(views)), examples, rounds, canaries, reconstruction, matching, properties, seed)
    limits = Limits(max_auc, max_tpr, max_epsilon, max_reconstructed)
    target = to or experiment.folder.path / "audit"
    with _Said() as said:
        result = attack(experiment, plan, said)
    failures = exceeded(result, limits)
    paths = write(target, result, failures, limits != Limits())
    if as_json:
        print_json(result | {"exceeded": failures})
    else:
        _show(result)
        print_paths(report=paths[0], numbers=paths[1])
    for failure in failures:
        err.print(f"above its limit: {failure}", markup=False, highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(EXCEEDED)


def _run_folder(what: list[str]) -> Path | None:
    """Return the folder that is named; ``None``: there are only settings.

    Raises:
        ConfigError: there is more than a folder.
    """
    from feddat.config import ConfigError

    named = [word for word in what if "=" not in word]
    if not named:
        return None
    if len(what) > 1:
        raise ConfigError(f"{named[0]}: expected only the folder of a run, or only KEY=VALUE settings")
    return Path(named[0])


def _experiment(folder: Path | None, config: Path | None, overrides: list[str]) -> Experiment:
    from feddat.config import load_config
    from feddat.experiment import Experiment

    return Experiment(load_config(config, overrides)) if folder is None else Experiment.open(folder)


class _Said:
    """Progress of an audit: bars in a terminal, a line every few seconds on standard error elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err, transient=True
        )
        self._tasks: dict[str, Any] = {}
        self._last = float("-inf")

    def __enter__(self) -> _Said:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if err.is_terminal:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show what is being done, how much of it is done, and of how much."""
        if err.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done)
        elif what not in self._tasks or time.monotonic() - self._last >= _INTERVAL:
            self._tasks[what] = None
            self._last = time.monotonic()
            err.print(f"{what}: {done} of {total}", markup=False, highlight=False, soft_wrap=True)


def _show(result: dict[str, Any]) -> None:
    """Print the figures of every attack."""
    from feddat.audit.findings import remark
    from feddat.audit.page import percent

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("attacker", "signal", "AUC", "named at 0.1 %", "named at 1 %"):
        table.add_column(heading)
    for view, signals in result["membership"].items():
        for signal, row in signals.items():
            auc, low, high = row["auc"]
            cells = (f"{auc:.3f} ({low:.3f}–{high:.3f})", percent(row["tpr"]["0.001"]), percent(row["tpr"]["0.01"]))
            table.add_row(view, signal, *cells)
    out.print(table)
    for view, bound in result.get("canaries", {"views": {}})["views"].items():
        right = f"{bound['right']} of {bound['guesses']} guesses right, {bound['canaries']} canaries"
        out.print(f"canaries, {view}: ε is at least {bound['epsilon']:.2f} ({right})", highlight=False)
    for source, row in result.get("properties", {"sources": {}})["sources"].items():
        auc = "–" if row["answers_auc"] is None else f"{row['answers_auc'][0]:.3f}"
        error = f"shares of kinds of question off by {100 * row['kind_error']:.1f} points"
        out.print(f"what clients ask, from {source}: answers told apart with AUC {auc}, {error}", highlight=False)
    for kind, found in result.get("reconstruction", {}).items():
        for row in found.values():
            rebuilt = row.get("refused") or f"{row['recovered']} of {row['of']} rebuilt{_closeness(row)}"
            who = _CLIENTS[kind]
            told = "" if "refused" in row or not (more := remark(row)) else f", {more}"
            out.print(
                f"{row['what']}, {row['examples']} examples, {row['steps']} steps, {who}: {rebuilt}{told}",
                highlight=False,
            )


def _closeness(row: dict[str, Any]) -> str:
    """Return how close gradient matching comes to the true data, beside a guess; "" for other attacks."""
    if "correlation" not in row:
        return ""
    (start, reached), (known, named, there) = row["correlation"], row["words"]
    return (
        f", correlation {reached:.2f} (at the start {start:.2f}), {named} of {there} words (by their frequency {known})"
    )
