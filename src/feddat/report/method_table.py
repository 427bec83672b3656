"""The usual table of papers: a row per method with the parameters it trains and sends, and its scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from rich.text import Text

from feddat.example import DataError
from feddat.report.fitted import FittedTable
from feddat.report.markdown_table import markdown_table
from feddat.report.means import all_clients, means
from feddat.report.methods import method_name
from feddat.report.numbers import human_count
from feddat.report.significance import Difference, Scores, paired_differences
from feddat.report.tables import (
    MEAN,
    Cell,
    Summary,
    best_marked,
    by_method,
    cell_html,
    counts_of,
    own_scores,
    run_title,
)

#: Title of the table over all federations.
OVERVIEW = "All federations"


@dataclass(frozen=True, slots=True)
class Row:
    """One method.

    Attributes:
        name: name in print.
        trained: parameters that a client trains.
        sent: numbers that a client sends each round.
        received: numbers that a client receives for a round; ``None``: the run is of a version that did not count them.
        cells: scores, one cell per column of the table.
        difference: difference to the reference, over the seeds with which both have scores for all clients; ``None`` if
            there are none, and for the reference itself.
    """

    name: str
    trained: int
    sent: int
    received: int | None
    cells: tuple[Cell, ...]
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class MethodTable:
    """Methods as rows and scores as columns; the last column is the mean.

    Attributes:
        columns: names of the columns.
        rows: the methods.
        reference: name in print of the method that the others are compared with; ``None`` if it is not among the rows.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: str | None

    @property
    def counts(self) -> tuple[str, ...]:
        """The headings of the columns before the scores; ``received`` is shown if a method receives another number."""
        differ = any(
            row.received is not None and human_count(row.received) != human_count(row.sent) for row in self.rows
        )
        return ("method", "trained", "sent", *(("received",) if differ else ()))

    @property
    def heads(self) -> tuple[str, ...]:
        """The headings of all columns that are shown."""
        last = (f"Δ to {self.reference} [95 %]",) if self.reference else ()
        return (*self.counts, *self.columns, *last)

    def texts(self, row: Row) -> list[str]:
        """Return a row's texts under :attr:`heads`."""
        counts = [row.trained, row.sent, row.received][: len(self.counts) - 1]
        last = [str(row.difference or "–")] if self.reference else []
        first = ("–" if count is None else human_count(count) for count in counts)
        return [row.name, *first, *map(str, row.cells), *last]


def method_table(summaries: Sequence[Summary], reference: str | None = None) -> MethodTable:
    """Return the table method x client of one federation; the last column is the mean over clients.

    Args:
        summaries: the runs.
        reference: the method to compare the others with; default: see :func:`reference_of`.
    """
    clients = all_clients(summary["clients"] for summary in summaries)
    return _table(summaries, {client: [client] for client in clients}, reference)


def reference_of(methods: Iterable[str]) -> str | None:
    """Return the method to compare the others with: FedDAT, else the first of its variants."""
    ours = [method for method in methods if method.startswith("feddat")]
    return "feddat" if "feddat" in ours else next(iter(ours), None)


def check_reference(reference: str, methods: Iterable[str]) -> None:
    """Check that there are runs of the method to compare the others with.

    Raises:
        DataError: there are none.
    """
    if reference not in (known := dict.fromkeys(methods)):
        raise DataError(f"no runs of {reference}, the method to compare with; the runs are of {', '.join(known)}")


def federation_tables(
    federations: Mapping[str, Sequence[Summary]], reference: str | None = None
) -> dict[str, MethodTable]:
    """Return one table per federation by title; the table over all federations comes first, if there are several.

    Args:
        federations: summaries by federation, of at least one run each.
        reference: the method to compare the others with; default: see :func:`reference_of`.
    """
    made = {name: method_table(summaries, reference) for name, summaries in federations.items()}
    return {OVERVIEW: overview(federations, reference), **made} if len(made) > 1 else made


def overview(federations: Mapping[str, Sequence[Summary]], reference: str | None = None) -> MethodTable:
    """Return the table method x federation: means over clients, with the mean over all clients last.

    A column counts only the seeds with which the method has scores for all clients of the column.
    """
    columns: dict[str, list[str]] = {}
    for federation, summaries in federations.items():
        clients = all_clients(summary["clients"] for summary in summaries)
        columns[federation] = [f"{federation}/{client}" for client in clients]
    return _table(joined(federations), columns, reference)


def joined(federations: Mapping[str, Sequence[Summary]]) -> list[Summary]:
    """Return one summary for each method and seed with the clients of all federations, as ``FEDERATION/CLIENT``."""
    found: dict[tuple[str, int], Summary] = {}
    for federation, summaries in federations.items():
        for summary in summaries:
            key = (summary["method"], summary["seed"])
            own = {f"{federation}/{client}": scores for client, scores in summary["clients"].items()}
            known = found.setdefault(key, {**summary, "clients": {}})
            found[key] = {**known, "clients": {**known["clients"], **own}}
    return list(found.values())


def _table(summaries: Sequence[Summary], columns: Mapping[str, Sequence[str]], compared: str | None) -> MethodTable:
    """Build the table from column -> the clients whose mean it shows."""
    groups = by_method(summaries)
    compared = compared or reference_of(groups)
    scores: dict[str, Scores] = {m: {s["seed"]: own_scores(s) for s in group} for m, group in groups.items()}
    everyone = {**columns, MEAN: [client for clients in columns.values() for client in clients]}
    values = {
        column: [tuple(means(scores[method].values(), clients)) for method in groups]
        for column, clients in everyone.items()
    }
    names = [run_title(group[0]) for group in groups.values()]
    marked = [best_marked(names, column) for column in values.values()]
    ahead = paired_differences(scores, compared) if compared in groups else {}
    rows = []
    for place, (method, group) in enumerate(groups.items()):
        other = ahead.get(method)
        parameters = counts_of(group)
        received = parameters.get("received")
        rows.append(
            Row(
                names[place],
                int(parameters.get("trainable", 0)),
                int(parameters.get("communicated", 0)),
                None if received is None else int(received),
                tuple(column[place] for column in marked),
                None if other is None else -other,
            )
        )
    known = compared is not None and compared in groups and len(groups) > 1
    reference = run_title(groups[str(compared)][0]) if known else None
    return MethodTable(tuple(everyone), tuple(rows), reference)


def to_markdown(table: MethodTable) -> str:
    """Return the table in Markdown, the best of each column in bold."""
    rows = []
    for row in table.rows:
        texts = table.texts(row)
        for place, cell in enumerate(row.cells, start=len(table.counts)):
            if cell.best:
                texts[place] = f"**{texts[place]}**"
        rows.append(texts)
    return markdown_table(table.heads, rows)


def tuning_markdown(tuning: Mapping[str, Any]) -> str:
    """Return the validation scores of a search (``tuning.json``) in Markdown, each method's choice in bold."""
    points = list(dict.fromkeys(point for scores in tuning["scores"].values() for point in scores))
    rows = []
    for method, scores in tuning["scores"].items():
        chosen = " ".join(f"{key}={value}" for key, value in tuning["best"][method].items())
        texts = [f"{scores[point]:.1f}" if point in scores else "–" for point in points]
        texts = [f"**{text}**" if point == chosen else text for point, text in zip(points, texts, strict=True)]
        rows.append([method_name(method), *texts])
    return markdown_table(["method", *points], rows)


def to_csv(table: MethodTable) -> str:
    """Return everything in the table as CSV, unrounded; an absent number is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = [f"{column} {what}" for column in table.columns for what in ("mean", "std")]
    writer.writerow([*table.counts, *scores, "difference", "difference low", "difference high"])
    for row in table.rows:
        numbers: list[float | None] = []
        for cell in row.cells:
            numbers += [cell.mean, cell.std] if cell.values else [None, None]
        other = row.difference
        numbers += [None] * 3 if other is None else [other.mean, other.low, other.high]
        texts = ("" if number is None else f"{number:.6g}" for number in numbers)
        counts = ["" if count is None else count for count in (row.trained, row.sent, row.received)]
        writer.writerow([row.name, *counts[: len(table.counts) - 1], *texts])
    return out.getvalue()


def to_latex(table: MethodTable) -> str:
    """Return the table as a LaTeX ``tabular`` with the rules of the ``booktabs`` package, the best in bold."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex, table.heads)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        texts = [_latex(text) for text in table.texts(row)]
        for place, cell in enumerate(row.cells, start=len(table.counts)):
            if cell.best:
                texts[place] = rf"\textbf{{{texts[place]}}}"
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_html(table: MethodTable) -> Markup:
    """Return the table as HTML: class ``best`` on the best cells."""
    heads = [name if place >= len(table.counts) else name.capitalize() for place, name in enumerate(table.heads)]
    head = Markup("").join(Markup("<th scope='col'>{}</th>").format(name) for name in heads)
    body = []
    for row in table.rows:
        texts = [Markup("<td>{}</td>").format(text) for text in table.texts(row)]
        for place, cell in enumerate(row.cells, start=len(table.counts)):
            texts[place] = Markup("<td class='best'>{}</td>" if cell.best else "<td>{}</td>").format(cell_html(cell))
        cells = Markup("").join(texts[1:])
        body.append(Markup("<tr><th scope='row'>{}</th>{}</tr>").format(row.name, cells))
    parts = "<table class='scores'><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    return Markup(parts).format(head, Markup("").join(body))


def to_rich(table: MethodTable, title: str | None = None) -> FittedTable:
    """Return the table for a rich console, the best of each column bold and green.

    Numbers of parameters and deviations of single columns are only in the files.
    """
    rows = []
    for row in table.rows:
        *scores, mean = row.cells
        texts = [Text(row.name)]
        texts += [
            Text(f"{cell.mean:.1f}" if cell.values else "–", "bold green" if cell.best else "") for cell in scores
        ]
        texts.append(Text(str(mean), "bold green" if mean.best else ""))
        texts += [Text(text) for text in table.texts(row)[len(table.counts) + len(row.cells) :]]
        rows.append(texts)
    return FittedTable([table.heads[0], *table.heads[len(table.counts) :]], rows, title)


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": "$-$",
        "–": "--",
        "Δ": r"$\Delta$",
    }
)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
