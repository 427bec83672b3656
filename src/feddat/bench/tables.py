"""Measurements as tables and plots, and as the part of a documentation page between two marks."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from feddat.bench.sides import PHASES
from feddat.example import DataError
from feddat.files import write_atomic
from feddat.report import plots
from feddat.report.markdown_table import markdown_table
from feddat.report.numbers import human_bytes

#: Result of one measurement: the content of ``KIND.json``.
Result = Mapping[str, Any]
#: Row of a table: heading -> cell.
Cells = dict[str, str]


def write_result(folder: Path, result: Result) -> list[Path]:
    """Write a measurement into ``folder`` as JSON, as a table and, for some kinds, as a plot; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = result["kind"]
    files = {f"{kind}.json": json.dumps(result, indent=1).encode(), f"{kind}.md": markdown(result).encode()}
    figures = {"step": step_figure, "clients": clients_figure, "simulation": clients_figure}
    if kind in figures:
        files[f"{kind}.png"] = plots.picture(figures[kind](result))
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def fill_page(page: Path, folder: Path) -> list[str]:
    """Write the tables of ``folder`` between their marks in a Markdown page; return the kinds that were filled in.

    The table of a kind goes between ``<!-- bench KIND -->`` and ``<!-- end -->``. Other JSON files are left out.

    Raises:
        DataError: the page or a file of the folder cannot be read, or the page has no mark for any of the measurements.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{page}: {error.strerror}") from None
    filled = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: expected the JSON of a measurement: {error}") from None
        kind = result.get("kind") if isinstance(result, dict) else None
        if not isinstance(kind, str) or kind not in _ROWS:
            continue
        try:
            table = markdown(result).replace("\\", r"\\")
        except (LookupError, TypeError, ValueError, StopIteration) as error:
            raise DataError(f"{path}: not a result of feddat bench {kind} ({error!r})") from None
        mark = re.escape(f"<!-- bench {kind} -->")
        text, count = re.subn(rf"({mark}\n).*?(?=<!-- end -->)", rf"\1\n{table}\n", text, flags=re.DOTALL)
        filled += [kind] * bool(count)
    if not filled:
        raise DataError(f"{page}: has no mark like <!-- bench step --> for any measurement in {folder}")
    write_atomic(page, text.encode())
    return filled


def markdown(result: Result) -> str:
    """Return a measurement as a Markdown table, preceded by a line about the hardware."""
    rows = table(result)
    headings = list(rows[0])
    align = [":--", *["--:"] * (len(headings) - 1)]
    return f"{machine(result)}\n\n{markdown_table(headings, [list(row.values()) for row in rows], align)}"


def machine(result: Result) -> str:
    """Return one line about the hardware of a measurement."""
    found = result["hardware"]
    cores, threads = found["cores"], found["threads"]
    parts = [f"{cores} core{'s'[: cores > 1]} of {found['cpu']} ({found['instructions']})"]
    if "gpu" in found:
        parts.insert(0, found["gpu"])
    return ", ".join([*parts, f"{threads} thread{'s'[: threads > 1]}", f"torch {found['torch']}"]) + "."


def table(result: Result) -> list[Cells]:
    """Return the rows of a measurement as text."""
    return _ROWS[result["kind"]](result["rows"])


def seconds(values: Sequence[float]) -> str:
    """Return the median of some seconds and half their interquartile range: ``1.23 ± 0.04``."""
    median = statistics.median(values)
    if len(values) < 2:
        return f"{median:.3g}"
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.3g} ± {(high - low) / 2:.1g}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how many times as fast ours is: the median of the ratios of all turns."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def _privacy(rows: Sequence[Result]) -> list[Cells]:
    return [
        {
            "model, batch": f"{row['model']}, {row['batch']}",
            "step": row["schedule"],
            "scope": row["scope"],
            "format": row["precision"],
            "releases": str(row["releases"]),
            "numbers": f"{row['private']:,}",
            "s per plain step": seconds(row["plain_seconds"]),
            "s per private step": seconds(row["private_seconds"]),
            "times as long": f"{row['ratio']:.2f}",
        }
        for row in rows
    ]


def _step(rows: Sequence[Result]) -> list[Cells]:
    cells = []
    for row in rows:
        baseline = next((r for r in rows if r["model"] == row["model"] and r["schedule"] == "published"), None)
        plain = next((r for r in rows if r["model"] == row["model"] and r["schedule"] == "plain"), None)
        taken = statistics.median(row["seconds"])
        cells.append(
            {
                "model, batch": f"{row['model']}, {row['batch']}",
                "schedule": row["schedule"],
                "format": row["precision"],
                "s per step": seconds(row["seconds"]),
                **{phase: f"{row['phases'][phase]:.3g}" for phase in PHASES},
                "samples/s": f"{row['batch'] / taken:.3g}",
                "times published": "" if baseline is None else f"{ratio(row['seconds'], baseline['seconds']):.2f}",
                "plain steps": "" if plain is None else f"{1 / ratio(row['seconds'], plain['seconds']):.2f}",
                "GFLOP": f"{row['flops'] / 1e9:.3g}",
                "of matmul rate": f"{100 * row['flops'] / taken / row['matmul_rate']:.0f} %",
                "peak memory": human_bytes(row["memory"]["peak"]) if row.get("memory") else "",
            }
        )
    return cells


def _epoch(rows: Sequence[Result]) -> list[Cells]:
    theirs = next(row for row in rows if row["schedule"] == "published")["seconds"]
    return [
        {
            "schedule, cache": f"{row['schedule']}, {row['cache']}",
            "examples": str(row["examples"]),
            "s per epoch": seconds(row["seconds"]),
            "of that reading": seconds(row["reading"]),
            "times published": f"{ratio(row['seconds'], theirs):.2f}",
        }
        for row in rows
    ]


def _clients(rows: Sequence[Result]) -> list[Cells]:
    one = rows[0]
    return [
        {
            "clients": str(row["clients"]),
            "s per client-round": seconds(row["seconds"]),
            **({"of that training": seconds(row["training"])} if "training" in row else {}),
            **({"memory loaded": human_bytes(row["memory"]["loaded"])} if "loaded" in row["memory"] else {}),
            "peak memory": human_bytes(row["memory"]["peak"]),
            f"times that of {one['clients']}": f"{row['memory']['peak'] / one['memory']['peak']:.2f}",
        }
        for row in rows
    ]


def _jobs(rows: Sequence[Result]) -> list[Cells]:
    one = rows[0]["seconds"]
    return [
        {
            "clients take turns in": row["way"],
            "clients": str(row["clients"]),
            "s per round": seconds(row["seconds"]),
            "times as fast": f"{ratio(row['seconds'], one):.2f}",
            "s to load and prepare": f"{row['loading']:.3g}",
        }
        for row in rows
    ]


def _wire(rows: Sequence[Result]) -> list[Cells]:
    return [
        {
            "model, format": f"{row['title']}, {row['format']}",
            "parameters": str(row["parameters"]),
            "bytes": str(row["bytes"]),
            "ms to encode": seconds([1000 * value for value in row["encode"]]),
            "ms to decode": seconds([1000 * value for value in row["decode"]]),
        }
        for row in rows
    ]


def _sums(rows: Sequence[Result]) -> list[Cells]:
    cells = []
    for row in rows:
        plain = next(r for r in rows if (r["model"], r["clients"]) == (row["model"], row["clients"]))
        total = row["up"] + row["down"]
        cells.append(
            {
                "model, clients": f"{row['title']}, {row['clients']}",
                "updates": "int8" if row["way"] == "int8" else f"{row['bits']} bits, {row['lost']} % gone",
                "bytes up": str(row["up"]),
                "bytes down": str(row["down"]),
                "times int8": f"{total / (plain['up'] + plain['down']):.2f}",
                "CPU s of a client": seconds(row["client"]),
                "CPU s of the server": seconds(row["server"]),
            }
        )
    return cells


#: Kind of measurement -> function that returns its rows as text.
_ROWS: Mapping[str, Callable[[Sequence[Result]], list[Cells]]] = {
    "step": _step,
    "epoch": _epoch,
    "clients": _clients,
    "simulation": _clients,
    "jobs": _jobs,
    "wire": _wire,
    "privacy": _privacy,
    "sums": _sums,
}


def step_figure(result: Result) -> Figure:
    """Return a figure with a panel per model and a bar per schedule, divided into its phases."""
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    with matplotlib.rc_context(plots.LIGHT_STYLE):
        figure = plots.light_figure(7.0, 0.5 + 1.5 * len(models))
        for axes, model in zip(figure.subplots(len(models), 1, squeeze=False)[:, 0], models, strict=True):
            rows = [row for row in result["rows"] if row["model"] == model]
            for place, row in enumerate(rows):
                done = 0.0
                for index, phase in enumerate(PHASES):
                    colour = plots.LIGHT[f"--s{index + 1}"]
                    label = phase if place == 0 else None
                    axes.barh(place, row["phases"][phase], left=done, color=colour, height=0.66, label=label)
                    done += row["phases"][phase]
            axes.set_yticks(range(len(rows)), [row["schedule"] for row in rows], color=plots.LIGHT["--ink"])
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            axes.set_title(f"{model}, batch {rows[0]['batch']}", fontsize=9, loc="left")
            axes.set_xlabel("seconds per step" if model == models[-1] else "")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(PHASES), frameon=False)
    return figure


def clients_figure(result: Result) -> Figure:
    """Return a figure of peak memory and seconds per client-round against the number of clients."""
    rows = result["rows"]
    counts = [row["clients"] for row in rows]
    curves = {
        "peak memory, MB": [row["memory"]["peak"] / 1e6 for row in rows],
        "s per client-round": [statistics.median(row["seconds"]) for row in rows],
    }
    with matplotlib.rc_context(plots.LIGHT_STYLE):
        figure = plots.light_figure(7.0, 2.4)
        for axes, (name, values) in zip(figure.subplots(1, 2), curves.items(), strict=True):
            axes.plot(counts, values, marker="o", color=plots.LIGHT["--s1"])
            axes.set_xscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
            axes.set_ylim(0, 1.25 * max(values))
            axes.set_xlabel("clients")
            axes.set_title(name, fontsize=9, loc="left", color=plots.LIGHT["--ink"])
    return figure
