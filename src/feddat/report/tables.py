"""Tables of test scores, client by method: built once and shown as Markdown, CSV, HTML or in a terminal."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from markupsafe import Markup, escape
from rich.text import Text

from feddat.report.fitted import FittedTable
from feddat.report.markdown_table import markdown_table
from feddat.report.means import all_clients, means
from feddat.report.methods import METHODS, method_name

#: One run's ``summary.json``.
Summary: TypeAlias = Mapping[str, Any]

#: Route -> its name in print.
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
#: Follows the name of a study's point that not all clients reach, because they have fewer examples.
MARK = "*"
#: Shown in place of the scores of a client that does not share them.
NOT_SHARED = "not shared"
#: Columns that are references and never marked as the best.
REFERENCES = frozenset(method.title for name, method in METHODS.items() if name.startswith("central"))


@dataclass(frozen=True, slots=True)
class Cell:
    """Scores of one client with one method, one per seed, in percent.

    Attributes:
        values: the scores; empty where the client has none.
        best: whether no other cell of the row has a higher mean, rounded as shown.
        absent: text shown if there are no values.
    """

    values: tuple[float, ...]
    best: bool = False
    absent: str = "–"

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation over seeds; ``None`` for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if not self.values:
            return self.absent
        return f"{self.mean:.1f}" + (f" ± {self.std:.1f}" if self.std is not None else "")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under named columns; in a table of clients, the last row is their mean, of runs with all of them.

    Attributes:
        columns: names of the columns.
        rows: name and cells of each row.
        corner: heading of the rows' names.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    corner: str = "client"


def own_route(scores: Mapping[str, float]) -> str:
    """Return the route of the method's own answer: a mixture of answers, else the dual teacher, else the first."""
    return next((route for route in ("mixed", "dat") if route in scores), next(iter(scores)))


def run_title(summary: Summary) -> str:
    """Return the name of a run's method in print: the run's own title, if it has one."""
    return str(summary.get("title") or method_name(summary["method"]))


def titles(summaries: Sequence[Summary]) -> list[str]:
    """Return the names of the methods in print, in order of first appearance."""
    return [run_title(group[0]) for group in by_method(summaries).values()]


def by_method(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Group summaries by method, in order of first appearance."""
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(summary["method"], []).append(summary)
    return groups


def counts_of(runs: Sequence[Summary]) -> Mapping[str, int]:
    """Return the counts of parameters of one method's runs.

    Earlier versions did not count arrays that travel beside the adapter, nor what is received; the run that counts most
    has them right.
    """
    found = (run.get("parameters", {}) for run in runs)
    return max(found, key=lambda counts: (int(counts.get("communicated", 0)), len(counts)))


def score_table(summaries: Sequence[Summary]) -> Table:
    """Return the table client x method: mean and deviation of each method's own answer over its seeds."""
    groups = by_method(summaries)
    columns = {run_title(group[0]): [own_scores(summary) for summary in group] for group in groups.values()}
    return _table(columns, _not_shared(summaries))


def route_table(summaries: Sequence[Summary]) -> Table | None:
    """Return the table client x route of one method; ``None`` for a method with only one route."""
    first: Mapping[str, Mapping[str, float]] = next((s["clients"] for s in summaries if s["clients"]), {})
    routes = list(dict.fromkeys(route for scores in first.values() for route in scores))
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
    """Return the table of client and kind of question x method; ``None`` if no run scored kinds separately."""
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
    """Return the table client x route of the scores of one run: client -> route -> percent."""
    routes = dict.fromkeys(route for found in scores.values() for route in found)
    return _table({ROUTES.get(r, r): [{c: found[r] for c, found in scores.items() if r in found}] for r in routes})


def own_scores(summary: Summary) -> dict[str, float]:
    """Return the score of the method's own answer by client."""
    return {client: scores[own_route(scores)] for client, scores in summary["clients"].items()}


def _not_shared(summaries: Sequence[Summary]) -> list[str]:
    """Return the clients that did not share their scores, without duplicates."""
    return list(dict.fromkeys(name for summary in summaries for name in summary.get("not_shared", ())))


def _table(columns: Mapping[str, Sequence[Mapping[str, float]]], not_shared: Sequence[str] = ()) -> Table:
    """Build the table from column name -> one mapping from client to score per seed."""
    scored = all_clients(run for runs in columns.values() for run in runs)
    clients = [*scored, *(name for name in not_shared if name not in scored)]
    rows = {
        client: [tuple(run[client] for run in runs if client in run) for runs in columns.values()] for client in clients
    }
    # The mean over clients is taken within each seed, so that its deviation is between whole runs.
    rows[MEAN] = [tuple(means(runs, scored)) for runs in columns.values()]
    absent = dict.fromkeys(not_shared, NOT_SHARED)
    if not_shared and not scored:
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
        columns: names of the columns.
        rows: scores of each row.
        corner: heading of the rows' names.
        absent: row name -> text of its cells without scores.
    """
    says = absent or {}
    marked = ((name, best_marked(columns, cells, says.get(name, "–"))) for name, cells in rows.items())
    return Table(tuple(columns), tuple(marked), corner)


def best_marked(methods: Sequence[str], values: Sequence[tuple[float, ...]], absent: str = "–") -> tuple[Cell, ...]:
    """Return each method's scores over seeds as cells; the best method that is not a reference is marked."""
    shown = [
        round(statistics.fmean(cell), 1) if cell and method not in REFERENCES else None
        for method, cell in zip(methods, values, strict=True)
    ]
    top = max((mean for mean in shown if mean is not None), default=None)
    several = len({mean for mean in shown if mean is not None}) > 1  # if all are equal, none is best
    return tuple(
        Cell(cell, several and mean is not None and mean == top, absent)
        for cell, mean in zip(values, shown, strict=True)
    )


def to_markdown(table: Table) -> str:
    """Return the table in Markdown, the best of each row in bold."""
    rows = [
        [f"*{name}*" if name == MEAN else name, *(f"**{cell}**" if cell.best else str(cell) for cell in cells)]
        for name, cells in table.rows
    ]
    return markdown_table([table.corner, *table.columns], rows)


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
    """Return a cell's text as HTML, with the deviation in small print."""
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
