"""One self-contained HTML page for a run or a comparison: no external files, no network, no scripts."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from feddat.files import write_atomic
from feddat.report import data_table, forest, method_table, plots, tables, traffic
from feddat.report.conclusion import conclusion
from feddat.report.folder import Folder, Run, read_folder
from feddat.report.left_out import left_out
from feddat.report.means import all_clients, means
from feddat.report.methods import METHODS
from feddat.report.numbers import human_bytes, human_count, human_duration

#: Most sample questions of one client on a page.
SAMPLES_PER_CLIENT = 4
#: Most clients with curves and samples on a page; nobody would read a page with a thousand.
CLIENTS_SHOWN = 24


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one method to a sample question."""

    label: str
    text: str
    probability: float | None
    score: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One test question with its images (as data URIs), the right answer, and the answers given."""

    client: str
    question: str
    images: tuple[str, ...]
    truth: str
    answers: tuple[Answer, ...]


def write_report(folder: Path | str) -> Path:
    """Write ``report.html`` into a run's or a comparison's folder and return its path.

    For a comparison, also write its tables: client x method as ``results.md`` and ``results.csv``, and method x client
    (with the parameters each method trains and sends) as ``methods.md``, ``methods.csv`` and ``methods.tex``.

    Raises:
        DataError: the folder is neither, or a file in it cannot be read.
    """
    content = read_folder(folder)
    page = environment().get_template("page.html").render(_context(content))
    if content.comparison:
        table = tables.score_table(content.summaries)
        write_atomic(content.path / "results.md", tables.to_markdown(table).encode())
        write_atomic(content.path / "results.csv", tables.to_csv(table).encode())
        methods = method_table.method_table(content.summaries)
        write_atomic(content.path / "methods.md", method_table.to_markdown(methods).encode())
        write_atomic(content.path / "methods.csv", method_table.to_csv(methods).encode())
        write_atomic(content.path / "methods.tex", method_table.to_latex(methods).encode())
    target = content.path / "report.html"
    write_atomic(target, page.encode())
    return target


def environment() -> Environment:
    """Return the Jinja environment of the page templates."""
    environment = Environment(
        loader=PackageLoader("feddat.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"bytes": human_bytes, "count": human_count, "duration": human_duration}
    return environment


def _context(content: Folder) -> dict[str, Any]:
    """Return the variables of the template."""
    first = content.runs[0]
    groups = tables.by_method(content.summaries)
    routes = {tables.run_title(group[0]): tables.route_table(group) for group in groups.values()}
    shown = _shown_clients(content)
    curves = [(client, panel) for client, panel in _curves(content) if client in {tables.MEAN, *shown}]
    methods = method_table.method_table(content.summaries)
    data = data_table.data_table(content.summaries)
    sent = traffic.rows(groups)
    limits = plots.score_limits([panel for _, panel in curves])
    return {
        "title": _title(content),
        "light": plots.LIGHT,
        "name": content.path.resolve().name,
        "comparison": content.comparison,
        "conclusion": [*conclusion(content.summaries), *left_out(content.summaries)],
        "tiles": _tiles(content),
        "setting": _setting(content),
        "scores": tables.to_html(tables.score_table(content.summaries)) if content.comparison else None,
        "methods": method_table.to_html(methods) if methods.reference else None,
        "reference": methods.reference,
        "means": Markup(plot) if content.comparison and (plot := _mean_bars(content.summaries)) else None,
        "forest": Markup(plot) if (plot := forest.inline(content.summaries, "Differences between methods")) else None,
        "notes": {tables.run_title(g[0]): METHODS[method].note for method, g in groups.items() if method in METHODS},
        "seeds": max(len(group) for group in groups.values()),
        "routes": {name: tables.to_html(table) for name, table in routes.items() if table is not None},
        "single": tables.to_html(tables.score_table(content.summaries)),
        "kinds": tables.to_html(kinds) if (kinds := tables.kind_table(content.summaries)) is not None else None,
        "legend": _series_names(content),
        "curves": [
            (client, Markup(plots.learning_curves(panel, limits, f"Learning curves: {client}")))
            for client, panel in curves
        ],
        "curve_split": _curve_split(content),
        "traffic": sent,
        "flow": traffic.flow(content.summaries),
        "samples": _samples(content, shown),
        "data": None if data is None else data_table.to_html(data),
        "data_caption": None if data is None else data.caption,
        "unshown": len(_scored_clients(content)) - len(shown),
        "config": first.config,
        "config_name": first.path.name,
    }


def _title(content: Folder) -> str:
    summary = content.runs[0].summary
    source = summary.get("benchmark") or "own data"
    methods = tables.titles(content.summaries)
    if len(methods) == 1:
        return f"{methods[0]} on {source}"
    return f"{', '.join(methods[:-1])} and {methods[-1]} on {source}"


def _tiles(content: Folder) -> list[tuple[str, str, str]]:
    """Return the headline numbers: (label, value, remark)."""
    table = tables.score_table(content.summaries)
    row = dict(table.rows)[tables.MEAN]
    best = max(range(len(row)), key=lambda index: row[index].mean if row[index].values else -1.0)
    score = f"{row[best].mean:.1f} %" if row[best].values else str(row[best])
    summary = content.runs[0].summary
    sending = next((t for t in traffic.rows(tables.by_method(content.summaries)) if t["communicated"]), None)
    tiles = [
        ("Best mean score" if content.comparison else "Mean score", score, table.columns[best]),
        ("Clients", str(len(traffic.taking_part(summary))), f"{summary['rounds']} rounds each"),
    ]
    if sending:
        tiles.append(("A client sends", human_bytes(sending["per_round"]), "per round"))
    total = sum(float(run.get("seconds") or 0) for run in content.summaries)
    runs = f"total of {len(content.runs)} runs" if content.comparison else "training and evaluation"
    tiles.append(("Time", human_duration(total), runs))
    return tiles


def _setting(content: Folder) -> list[tuple[str, str]]:
    summary = content.runs[0].summary
    seeds = sorted({run["seed"] for run in content.summaries})
    rows = [
        ("Benchmark", summary.get("benchmark") or "own data"),
        ("Model", summary.get("model")),
        ("Hash of the weights", summary.get("model_weights")),
        ("Adapter", summary.get("peft")),
        ("Clients", ", ".join(traffic.taking_part(summary))),
        ("Methods", ", ".join(tables.titles(content.summaries))),
        ("Rounds", summary["rounds"]),
        ("Seeds" if len(seeds) > 1 else "Seed", ", ".join(map(str, seeds))),
        ("Exchanged during the run", _changes(content)),
    ]
    return [(key, str(value)) for key, value in rows if value is not None]


def _changes(content: Folder) -> str | None:
    """Return what was exchanged in the course of the runs, such as a client's data; ``None`` if nothing."""
    found = []
    for run in content.runs:
        of = f" of {run.summary['method']}, seed {run.summary['seed']}" if content.comparison else ""
        for change in run.summary.get("changes", ()):
            found.append(f"{', '.join(change['what'])} (after round {change['round']}{of})")
    return "; ".join(found) or None


def _series_names(content: Folder) -> list[str]:
    if content.comparison:
        return tables.titles(content.summaries)
    return [tables.ROUTES.get(route, route) for route in _routes(content.runs[0])]


def _routes(run: Run) -> list[str]:
    return list(dict.fromkeys(route for scores in run.summary["clients"].values() for route in scores))


def _curve_split(content: Folder) -> str:
    """Return the split of the curves: validation where it was evaluated, else test."""
    splits = {line.get("split") for run in content.runs for line in run.metrics if "score" in line}
    return "validation" if "validation" in splits else "test"


def _scored_clients(content: Folder) -> list[str]:
    """Return all clients, in the order of the tables."""
    return all_clients(run.summary["clients"] for run in content.runs)


def _shown_clients(content: Folder) -> list[str]:
    """Return the clients with curves and sample questions on the page: all, or some spread over the tables' order."""
    clients = _scored_clients(content)
    step = max(1.0, len(clients) / CLIENTS_SHOWN)
    return [clients[int(place * step)] for place in range(min(len(clients), CLIENTS_SHOWN))]


def _curves(content: Folder) -> list[tuple[str, dict[str, plots.Curve]]]:
    """Return one panel per client and one for their mean: series name -> round -> one score per run."""
    split = _curve_split(content)
    clients = _scored_clients(content)
    panels: dict[str, dict[str, dict[int, list[float]]]] = {name: {} for name in (tables.MEAN, *clients)}
    names = _series_names(content)
    for run in content.runs:
        scored = [line for line in run.metrics if line.get("split") == split and "score" in line]
        # A run without final scores still has curves.
        routes = _routes(run) or list(dict.fromkeys(line["route"] for line in scored))
        totals: dict[tuple[str, int], dict[str, float]] = {}
        for line in scored:
            if content.comparison and line["route"] != tables.own_route(dict.fromkeys(routes, 0.0)):
                continue
            series = (
                tables.run_title(run.summary) if content.comparison else tables.ROUTES.get(line["route"], line["route"])
            )
            # A resumed run may contain a line twice; the later one counts.
            totals.setdefault((series, line["round"]), {})[line["client"]] = line["score"]
        for (series, number), scores in totals.items():
            for client, score in scores.items():
                panels.setdefault(client, {}).setdefault(series, {}).setdefault(number, []).append(score)
            for mean in means([scores], clients):
                panels[tables.MEAN].setdefault(series, {}).setdefault(number, []).append(mean)
    # The series have the same order in every panel, so that their colours match.
    ordered: list[tuple[str, dict[str, plots.Curve]]] = []
    for client, panel in panels.items():
        ordered.append((client, {name: panel.get(name, {}) for name in names}))
    return [(client, panel) for client, panel in ordered if any(panel.values())]


def _mean_bars(summaries: Sequence[tables.Summary]) -> str | None:
    """Return bars of the methods' mean scores; ``None`` if no method has one."""
    table = tables.score_table(summaries)
    cells = zip(table.columns, dict(table.rows)[tables.MEAN], strict=True)
    values = {name: cell.values for name, cell in cells if cell.values}
    return plots.bars(values, "mean test score over clients (%)", "Mean test score per method") if values else None


def _samples(content: Folder, clients: Collection[str]) -> list[Sample]:
    """Return some sample questions of each of the clients, each with the answer of every method's first seed."""
    runs: list[tuple[str, Run]] = []
    for method in tables.by_method(content.summaries):
        first = next(run for run in content.runs if run.summary["method"] == method)
        runs.append((tables.run_title(first.summary), first))
    samples: dict[tuple[str, str], Sample] = {}
    for name, run in runs:
        for record in run.predictions:
            key = (record["client"], record["id"])
            if record["client"] not in clients:
                continue
            if key not in samples:
                images = tuple(_data_uri(run.path / image) for image in record["images"])
                samples[key] = Sample(record["client"], record["question"], images, record["truth"], ())
            known = samples[key]
            answers = (*known.answers, _answer(name, record))
            samples[key] = Sample(known.client, known.question, known.images, known.truth, answers)
    return list(_some_per_client(samples.values()))


def _answer(name: str, record: Mapping[str, Any]) -> Answer:
    text, probability = record["top"][0]
    return Answer(name, text, probability, record["score"])


def _some_per_client(samples: Any) -> Iterator[Sample]:
    shown: dict[str, int] = {}
    for sample in samples:
        shown[sample.client] = shown.get(sample.client, 0) + 1
        if shown[sample.client] <= SAMPLES_PER_CLIENT:
            yield sample


def _data_uri(image: Path) -> str:
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
