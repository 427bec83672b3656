"""Client by method tables of test scores: built once, shown as Markdown, CSV, HTML or in a terminal."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from markupsafe import Markup, escape
from rich.text import Text

from feddat.kinds import KINDS, named_variants
from feddat.report.fitted import FittedTable

#: One run's ``summary.json``.
Summary: TypeAlias = Mapping[str, Any]

#: Method -> how it is called in print.
METHODS = {
    "feddat": "FedDAT",
    "feddat-joint": "FedDAT, joint",
    "feddat-mild": "FedDAT, mild distillation",
    "feddat-heads": "FedDAT, separate heads",
    "feddat-mild-heads": "FedDAT, mild distillation, separate heads",
    "feddat-nokd": "FedDAT, no distillation",
    "fedavg": "FedAvg",
    "fedavg-2x": "FedAvg, twice the epochs",
    "fedavg-ft": "FedAvg, fine-tuned",
    "fedprox": "FedProx",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "moon": "MOON",
    "ditto": "Ditto",
    "apfl": "APFL",
    "pfedme": "pFedMe",
    "local": "Local only",
    "central": "Centralised",
    "head": "Head only",
    "fedrep": "FedRep",
    "fedper": "FedPer",
    "feddpa": "FedDPA",
    "fedalt": "FedALT",
    "fedsa-lora": "FedSA-LoRA",
    "ffa-lora": "FFA-LoRA",
    "fedex-lora": "FedEx-LoRA",
    "feddat-2": "FedDAT-2",
    "lora-fair": "LoRA-FAIR",
    "fedmosaic": "FedMosaic",
    "fedlease": "FedLEASE",
    "hilora": "HiLoRA",
    "pfedmma": "pFedMMA",
    "fedavgm": "FedAvgM",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "fedmedian": "FedMedian",
    "fedtrimmedavg": "FedTrimmedAvg",
    "krum": "Krum",
    "qfedavg": "q-FedAvg",
}
#: Method -> what it is, in one line.
NOTES = {
    "feddat": "a local and a shared adapter teach each other; only the shared one travels",
    "feddat-joint": "the same with both routes in one optimizer step instead of one after the other",
    "feddat-mild": "the same with mild distillation (alpha and beta 0.1)",
    "feddat-heads": "the same with a head of its own for the global adapter",
    "feddat-mild-heads": "the same with mild distillation and separate heads",
    "feddat-nokd": "the same without distillation (alpha and beta 0): the dual adapters alone",
    "fedavg": "one shared adapter, averaged every round",
    "fedavg-2x": "the same with twice the local epochs: as much computing as two adapters take",
    "fedavg-ft": "the same, then an epoch of personal fine-tuning that nobody else sees",
    "fedprox": "one shared adapter, held near the one received while it trains",
    "scaffold": "one shared adapter, its gradients corrected for the client's drift",
    "feddyn": "one shared adapter, regularised so that the clients' optima agree",
    "moon": "one shared adapter, its features drawn towards those of the one received",
    "ditto": "a shared adapter, and a personal one held near it",
    "apfl": "a shared and a personal adapter, mixed in a proportion that each client learns",
    "pfedme": "a shared adapter that follows a personal one found around it on every batch",
    "local": "an adapter of its own per client, nothing travels",
    "central": "one adapter trained on everybody's data in one place: what federation has to do without",
    "head": "no adapter: each client trains its task head alone",
    "fedrep": "the head trains first, then the shared adapter beneath it",
    "fedper": "the last layers' adapters stay with their client, the rest is averaged",
    "feddpa": "a shared and a local adapter, mixed by how familiar a question is",
    "fedalt": "an adapter of its own per client beside the mean of all the others', mixed by a learned mixer",
    "fedsa-lora": "LoRA of which the factor A is averaged and B stays",
    "fedex-lora": "LoRA averaged exactly: what the mean of the factors misses goes into the frozen weights",
    "feddat-2": "a shared and a personal adapter train in turns; a client's validation data says how they answer",
    "lora-fair": "LoRA whose averaged factor B is corrected towards the average of the products",
    "fedmosaic": "an adapter of its own per client beside a mean of all, weighed by how alike tasks are",
    "fedlease": "an expert for each cluster of clients, of which a router takes the best",
    "hilora": "an adapter for all, one for each cluster and one for each client, one after the other",
    "pfedmma": "adapters of three parts, of which the middle one alone is averaged",
    "ffa-lora": "LoRA of which the factor A is fixed and B is averaged",
    "fedavgm": "one shared adapter; the server's steps have momentum",
    "fedadam": "one shared adapter; the server takes Adam's steps",
    "fedyogi": "one shared adapter; the server takes Yogi's steps",
    "fedmedian": "one shared adapter, each number the median of the clients'",
    "fedtrimmedavg": "one shared adapter, each number averaged without its extremes",
    "krum": "one shared adapter, that of the client nearest to the others",
    "qfedavg": "one shared adapter, averaged with more weight for clients of higher loss",
}
for _name, _method, _kind in named_variants():
    METHODS[_name] = f"{METHODS[_method]}, {KINDS[_kind].title}"
    NOTES[_name] = f"{METHODS[_method]} where {KINDS[_kind].trains} trains"
#: Route -> what its scores mean in print.
ROUTES = {
    "dat": "Dual teacher (DAT)",
    "mixed": "Mixture",
    "personal": "Personal route",
    "tiers": "All tiers",
    "local": "Local adapter",
    "global": "Global adapter",
    "score": "Score",
}
MEAN = "Mean"
#: In place of the scores of a client that keeps them to itself.
NOT_SHARED = "not shared"
#: Columns that are a reference, not a contender: never marked as the best.
REFERENCES = frozenset(name for method, name in METHODS.items() if method.startswith("central"))


@dataclass(frozen=True, slots=True)
class Cell:
    """Scores of one client with one method, one per seed, in percent.

    Attributes:
        values: the scores; empty where the client has none.
        best: whether no other cell of the row has a higher mean (in the digit that is shown).
        absent: what is shown where there are no values.
    """

    values: tuple[float, ...]
    best: bool = False
    absent: str = "–"

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation over seeds; ``None`` for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if not self.values:
            return self.absent
        return f"{self.mean:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under named columns; of a table of clients the last row is their mean.

    Attributes:
        columns: their names.
        rows: name and cells of each.
        corner: what the rows are.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    corner: str = "client"


def own_route(scores: Mapping[str, float]) -> str:
    """Return the route that is the method's own answer: ``dat`` where there is one, else the only one."""
    return "dat" if "dat" in scores else next(iter(scores))


def method_name(method: str) -> str:
    """Return the method's name in print."""
    return METHODS.get(method, method)


def run_title(summary: Summary) -> str:
    """Return what a run's method is called in print: by its settings, where the run says so."""
    return str(summary.get("title") or method_name(summary["method"]))


def titles(summaries: Sequence[Summary]) -> list[str]:
    """Return what the methods are called in print, in the order in which they first appear."""
    return [run_title(group[0]) for group in by_method(summaries).values()]


def by_method(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Group summaries by method, in the order in which methods first appear."""
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary["method"], []).append(summary)
    return groups


def score_table(summaries: Sequence[Summary]) -> Table:
    """Return client x method: each method's own answer, mean and deviation over its seeds."""
    groups = by_method(summaries)
    columns = {run_title(group[0]): [own_scores(summary) for summary in group] for group in groups.values()}
    return _table(columns, _not_shared(summaries))


def route_table(summaries: Sequence[Summary]) -> Table | None:
    """Return client x route of one method; ``None`` for a method that answers in one way only."""
    clients = summaries[0]["clients"].values()
    routes = list(dict.fromkeys(route for scores in clients for route in scores))
    if len(routes) < 2:
        return None
    columns = {
        ROUTES.get(route, route): [
            {client: scores[route] for client, scores in summary["clients"].items() if route in scores}
            for summary in summaries
        ]
        for route in routes
    }
    return _table(columns, _not_shared(summaries))


def kind_table(summaries: Sequence[Summary]) -> Table | None:
    """Return client and kind of question x method; ``None`` where no run scored kinds apart."""
    groups = by_method([summary for summary in summaries if summary.get("kinds")])
    rows: dict[str, list[tuple[float, ...]]] = {}
    names = dict.fromkeys(
        (c, k) for group in groups.values() for s in group for c, ks in s["kinds"].items() for k in ks
    )
    for client, kind in names:
        rows[f"{client}, {kind}"] = [
            tuple(run["kinds"][client][kind] for run in group if kind in run["kinds"].get(client, {}))
            for group in groups.values()
        ]
    return make_table([run_title(group[0]) for group in groups.values()], rows) if rows else None


def split_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return client x route of scores as one run has them: client -> route -> percent."""
    routes = dict.fromkeys(route for found in scores.values() for route in found)
    return _table({ROUTES.get(r, r): [{c: found[r] for c, found in scores.items() if r in found}] for r in routes})


def own_scores(summary: Summary) -> dict[str, float]:
    """Return client -> score of the method's own answer."""
    return {client: scores[own_route(scores)] for client, scores in summary["clients"].items()}


def _not_shared(summaries: Sequence[Summary]) -> list[str]:
    """Return the clients that kept their scores to themselves, each once."""
    return list(dict.fromkeys(name for summary in summaries for name in summary.get("not_shared", ())))


def _table(columns: Mapping[str, Sequence[Mapping[str, float]]], not_shared: Sequence[str] = ()) -> Table:
    """Build the table from column name -> one mapping from client to score per seed."""
    clients = list(dict.fromkeys(client for runs in columns.values() for run in runs for client in run))
    clients += [name for name in not_shared if name not in clients]
    rows = {
        client: [tuple(run[client] for run in runs if client in run) for runs in columns.values()] for client in clients
    }
    # The mean over clients is taken within each seed, so that its deviation is that of whole runs.
    rows[MEAN] = [tuple(statistics.fmean(run.values()) for run in runs if run) for runs in columns.values()]
    absent = dict.fromkeys(not_shared, NOT_SHARED)
    if not_shared and not any(rows[MEAN]):
        absent[MEAN] = NOT_SHARED
    return make_table(list(columns), rows, absent=absent)


def make_table(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[tuple[float, ...]]],
    corner: str = "client",
    absent: Mapping[str, str] | None = None,
) -> Table:
    """Return a table from row name -> each column's scores over seeds; the best of each row is marked.

    Args:
        columns: their names.
        rows: their scores.
        corner: what the rows are.
        absent: row name -> what its cells without scores say.
    """
    says = absent or {}
    marked = ((name, best_marked(columns, cells, says.get(name, "–"))) for name, cells in rows.items())
    return Table(tuple(columns), tuple(marked), corner)


def best_marked(methods: Sequence[str], values: Sequence[tuple[float, ...]], absent: str = "–") -> tuple[Cell, ...]:
    """Return each method's scores over seeds as cells, the best one of a contender marked."""
    shown = [
        round(statistics.fmean(cell), 1) if cell and method not in REFERENCES else None
        for method, cell in zip(methods, values, strict=True)
    ]
    top = max((mean for mean in shown if mean is not None), default=None)
    several = len({mean for mean in shown if mean is not None}) > 1  # where all are equal, none is best
    return tuple(
        Cell(cell, several and mean is not None and mean == top, absent)
        for cell, mean in zip(values, shown, strict=True)
    )


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, the best of each row in bold."""
    lines = [f"| {table.corner} | " + " | ".join(table.columns) + " |", "| --- |" + " ---: |" * len(table.columns)]
    for name, cells in table.rows:
        label = f"*{name}*" if name == MEAN else name.replace("|", "\\|")
        lines.append(f"| {label} | " + " | ".join(f"**{cell}**" if cell.best else str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Return mean and deviation of every cell as CSV, unrounded; an absent number is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([table.corner, *(f"{column} {what}" for column in table.columns for what in ("mean", "std"))])
    for name, cells in table.rows:
        numbers: list[float | None] = []
        for cell in cells:
            numbers += [cell.mean, cell.std] if cell.values else [None, None]
        writer.writerow([name, *("" if number is None else f"{number:.6g}" for number in numbers)])
    return out.getvalue()


def to_html(table: Table) -> Markup:
    """Return the table as HTML: class ``best`` on the best cells, class ``mean`` on the last row."""
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(column) for column in table.columns)
    body = []
    for name, cells in table.rows:
        row = Markup("").join(
            Markup("<td class='best'>{}</td>" if cell.best else "<td>{}</td>").format(cell_html(cell)) for cell in cells
        )
        start = "<tr class='mean'>" if name == MEAN else "<tr>"
        body.append(Markup(start + "<th scope='row'>{}</th>{}</tr>").format(name, row))
    parts = "<table class='scores'><thead><tr><th scope='col'>{}</th>{}</tr></thead><tbody>{}</tbody></table>"
    return Markup(parts).format(table.corner.capitalize(), head, Markup("").join(body))


def cell_html(cell: Cell) -> Markup:
    """Return a cell's text as HTML, the deviation in small print."""
    mean, _, std = str(cell).partition(" ± ")
    return escape(mean) + (Markup(" <small>± {}</small>").format(std) if std else Markup(""))


def to_rich(table: Table, title: str | None = None) -> FittedTable:
    """Return the table for a rich console, the best of each row bold and green."""
    rows = [
        [Text(name), *(Text(str(cell), style="bold green" if cell.best else "") for cell in cells)]
        for name, cells in table.rows
    ]
    means = [number for number, (name, _) in enumerate(table.rows) if name == MEAN]
    return FittedTable([table.corner, *table.columns], rows, title, means)


def to_text(table: Table) -> str:
    """Return the table in plain aligned text, the best of each row marked with ``*``."""
    grid = [[table.corner, *table.columns]]
    grid += [[name, *(str(cell) + ("*" if cell.best else " ") for cell in cells)] for name, cells in table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = []
    for row in grid:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines) + "\n"
