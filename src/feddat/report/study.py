"""The table and the plot of a study: scores against one varied setting, from ``study.json``."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from feddat.example import DataError
from feddat.files import write_atomic
from feddat.report import plots, tables
from feddat.report.folder import KINDS, check_records, is_number, read_keys
from feddat.report.left_out import lacking
from feddat.report.markdown_table import NUMBERS, TEXTS, markdown_table
from feddat.report.means import CHOOSE_CLIENTS, all_clients, is_whole
from feddat.report.methods import method_name
from feddat.report.numbers import human_bytes

#: One run's score at one point, as ``study.json`` lists them.
Record: TypeAlias = Mapping[str, Any]

#: Studies whose points can have other clients: ``clients`` is that over ``split_clients``.
_CHOOSE_CLIENTS = ("clients", *CHOOSE_CLIENTS)
#: Values that span at least this factor get a logarithmic axis.
LOG_FROM = 8
#: Bytes up and down of a series at a point that it lacks.
_NONE = (None, None)
#: Characters per line of the plot's title: the width of the axes without the legend.
_TITLE_WIDTH = 60
#: One marker per series, so that lines can be distinguished without colours.
_MARKERS = "osD^vPX"


def write_study(folder: Path | str) -> list[Path]:
    """Write ``study.md``, ``study.csv``, ``study.png`` and ``study.svg`` beside ``study.json``; return their paths.

    Raises:
        DataError: the file is missing or is not that of a study.
    """
    folder = Path(folder)
    study = read_study(folder)
    table = study_table(study)
    figure = study_figure(study)
    contents = {
        "md": study_markdown(study).encode(),
        "csv": tables.to_csv(table).encode(),
        "png": plots.picture(figure),
        "svg": plots.picture(figure, "svg"),
    }
    for kind, content in contents.items():
        write_atomic(folder / f"study.{kind}", content)
    return [folder / f"study.{kind}" for kind in contents]


def read_study(folder: Path) -> dict[str, Any]:
    """Return the content of ``study.json``.

    Raises:
        DataError: the file is missing, is not that of a study, or has no scores.
    """
    file = folder / KINDS["study"]
    study = read_keys(file, ("axis", "rows", "curve", "by_route", "split", "records"))
    records = check_records(study["records"], ("method", "route", "point", "x", "score"), f"{file}: records")
    if not records:
        raise DataError(f"{file}: records: is empty; no run of the study has scores")
    for place, record in enumerate(records):
        numbers = ("score",) if record["x"] is None else ("score", "x")
        wrong = [f"{key}: expected a number" for key in numbers if not is_number(record[key])]
        wrong += [f"{key}: expected text" for key in ("method", "route", "point") if not isinstance(record[key], str)]
        if not isinstance(record.get("clients", {}), dict):
            wrong.append("clients: expected scores by client")
        if wrong:
            raise DataError(f"{file}: records[{place}]: {wrong[0]}")
    if not isinstance(notes := study.get("notes", []), list) or not all(isinstance(note, str) for note in notes):
        raise DataError(f"{file}: notes: expected a list of texts")
    if not isinstance(study.get("short", {}), dict):
        raise DataError(f"{file}: short: expected an object")
    study = whole_runs(study)
    if not study["records"]:
        raise DataError(f"{file}: records: no run has scores of all clients that other runs have")
    return study


def whole_runs(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study without the records that lack a client's score which others have; a note names their runs.

    Points of a study over a setting that chooses the clients need not have the same. Records of earlier versions do not
    name their clients, and stay.
    """
    apart = study.get("study") in _CHOOSE_CLIENTS
    groups: dict[str, list[Record]] = {}
    for record in study["records"]:
        if "clients" in record:
            groups.setdefault(record["point"] if apart else "", []).append(record)
    dropped: set[int] = set()
    notes = []
    for group in groups.values():
        clients = all_clients(record["clients"] for record in group)
        lacks = [record for record in group if not is_whole(record["clients"], clients)]
        notes += lacking({_run(study, record): record["clients"] for record in lacks}, clients)
        dropped.update(map(id, lacks))
    kept = [record for record in study["records"] if id(record) not in dropped]
    return {**study, "records": kept, "notes": [*study.get("notes", ()), *notes]}


def _run(study: Mapping[str, Any], record: Record) -> str:
    """Return the name in print of a record's run."""
    seed = f", seed {record['seed']}" if "seed" in record else ""
    return f"{method_name(record['method'])}{seed}" + ("" if study["curve"] else f" at {record['point']}")


def study_table(study: Mapping[str, Any]) -> tables.Table:
    """Return the table point x series: means over clients, with mean and deviation over seeds."""
    series = _series(study)
    rows = {
        point: [tuple(r["score"] for r in records if r["point"] == point) for records in series.values()]
        for point in _points(study)
    }
    return tables.make_table(list(series), rows, study["rows"])


def marked_table(study: Mapping[str, Any]) -> tables.Table:
    """Return :func:`study_table` for people, with a mark at the points that not all clients reach."""
    table = study_table(study)
    return replace(table, rows=tuple((_marked(study, point), cells) for point, cells in table.rows))


def table_markdown(study: Mapping[str, Any]) -> str:
    """Return the table in Markdown, followed by the study's notes."""
    notes = " ".join(study.get("notes", ()))
    return tables.to_markdown(marked_table(study)) + (f"\n{notes}\n" if notes else "")


def study_markdown(study: Mapping[str, Any]) -> str:
    """Return the table in Markdown, followed by other measurements, and by bytes if these differ between the points.

    Bytes are those that one client sends (up) and receives (down) for training in one round.
    """
    text = table_markdown(study) + _measured(study)
    series = {name: _bytes(records) for name, records in _series(study).items()}
    if all(len(set(points.values())) < 2 for points in series.values()):
        return text
    columns = [f"{name}, {way}" for name in series for way in ("up", "down")]
    rows = [
        [
            _marked(study, point),
            *(human_bytes(each) if each is not None else "–" for p in series.values() for each in p.get(point, _NONE)),
        ]
        for point in _points(study)
    ]
    return f"{text}\n{markdown_table(['bytes per client and round', *columns], rows)}"


#: Measurement besides scores (:meth:`feddat.experiment.grids.record.RunRecord.measured`) -> heading, factor.
_MEASURES = {
    "agreement": ("agreement of updates", 1),
    "norm": ("norm of updates", 1),
    "distilled": ("distillation in the loss (%)", 100),
    **{
        f"{split} {route}": (f"{split}, {'own answer' if route == 'score' else route} (%)", 1)
        for split in ("train", "validation")
        for route in ("score", "mixed", "dat", "personal", "local", "tiers", "global")
    },
}


def _measured(study: Mapping[str, Any]) -> str:
    """Return a table of the measurements besides scores, as means over seeds; empty if there are none."""
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for name, records in _series(study).items():
        for record in records:
            if record.get("measured"):
                found.setdefault((record["point"], name), []).append(record["measured"])
    keys = [key for key in _MEASURES if any(key in values for group in found.values() for values in group)]
    if not keys:
        return ""
    points = _points(study)
    heads = [study["rows"], "method", *(_MEASURES[key][0] for key in keys)]
    rows = []
    for (point, name), group in sorted(found.items(), key=lambda item: points.index(item[0][0])):
        cells = []
        for key in keys:
            values = [values[key] * _MEASURES[key][1] for values in group if key in values]
            digits = 2 if key in ("agreement", "norm") else 1
            cells.append(f"{statistics.fmean(values):.{digits}f}" if values else "–")
        rows.append([_marked(study, point), name, *cells])
    return "\n" + markdown_table(heads, rows, [TEXTS, TEXTS, *[NUMBERS] * len(keys)])


def _points(study: Mapping[str, Any]) -> list[str]:
    """Return the labels of the points, in order."""
    return list(dict.fromkeys(record["point"] for record in study["records"]))


def _marked(study: Mapping[str, Any], point: str) -> str:
    return point + tables.MARK if point in study.get("short", {}) else point


def _bytes(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Return point -> bytes up and down, mean over seeds; empty for old studies, which did not count bytes."""
    points: dict[str, list[Mapping[str, float]]] = {}
    for record in records:
        if record.get("bytes"):
            points.setdefault(record["point"], []).append(record["bytes"])
    return {
        point: (statistics.fmean(b["up"] for b in sent), statistics.fmean(b["down"] for b in sent))
        for point, sent in points.items()
    }


def study_figure(study: Mapping[str, Any]) -> Figure:
    """Return the plot: one line per series, with a band of one standard deviation over seeds.

    Values that are not numbers are placed at equal distances in their order.
    """
    with matplotlib.rc_context(plots.LIGHT_STYLE):
        figure = plots.light_figure(6.4, 4.0)
        axes = figure.add_subplot()
        _draw(axes, study)
        axes.set_xlabel(study["axis"] + ("\n(hollow: some clients have fewer)" if study.get("short") else ""))
        axes.set_ylabel(f"{study['split']} score, mean over clients (%)")
        title = f"{study.get('benchmark') or 'own data'}: {study.get('description', '')}"
        axes.set_title(textwrap.fill(title, _TITLE_WIDTH), fontsize=9, loc="left")
        figure.legend(loc="outside right center", frameon=False)
    return figure


def study_panels(studies: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the plots of several studies of one setting side by side, by title, as PNG.

    All studies have the same methods in the same order, or a part of them.
    """
    columns = min(3, len(studies))
    rows = -(-len(studies) // columns)
    series = list(dict.fromkeys(name for study in studies.values() for name in _series(study)))
    with matplotlib.rc_context(plots.LIGHT_STYLE):
        figure = plots.light_figure(3.2 * columns + 2.4, 2.6 * rows + 0.4)
        every = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (title, study) in zip(every, studies.items(), strict=False):
            _draw(axes, study, series)
            axes.set_title(title, fontsize=9)
        for axes in every[len(studies) :]:
            axes.set_axis_off()
        first = next(iter(studies.values()))
        figure.supxlabel(first["axis"], fontsize=9)
        figure.supylabel(f"{first['split']} score, mean over clients (%)", fontsize=9)
        handles = dict(pair for axes in every for pair in zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    return plots.picture(figure)


def _draw(axes: Axes, study: Mapping[str, Any], series: Sequence[str] = ()) -> None:
    """Draw a study's lines; ``series`` names all series in the order of their colours, by default the study's own."""
    numbers = [record["x"] for record in study["records"]]
    places: dict[str, float] = {}
    if None in numbers:
        places = {point: float(i) for i, point in enumerate(_points(study))}
    own = _series(study)
    for index, name in enumerate(series or own):
        if name in own:
            short = _by_place([r for r in own[name] if r["point"] in study.get("short", {})], places)
            _draw_line(axes, index, name, _by_place(own[name], places), study["curve"], short)
    if places:
        axes.set_xticks(list(places.values()), list(places))
    elif study["curve"]:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    elif min(numbers) > 0 and max(numbers) >= LOG_FROM * min(numbers):
        axes.set_xscale("log")
        ticks = sorted(set(numbers))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(7))


def _draw_line(
    axes: Axes,
    index: int,
    name: str,
    curve: Mapping[float, Sequence[float]],
    bare: bool,
    hollow: Collection[float],
) -> None:
    """Draw one series; ``bare`` omits most markers of a long curve, and markers at places in ``hollow`` are hollow."""
    x = sorted(curve)
    means = [statistics.fmean(curve[place]) for place in x]
    colour = plots.LIGHT[f"--s{index % len(plots.SERIES) + 1}"]
    many = bare and len(x) > 12
    axes.plot(
        x,
        means,
        label=name,
        color=colour,
        linewidth=2,
        linestyle="-" if index < len(plots.SERIES) else "--",
        marker=_MARKERS[index % len(_MARKERS)],
        markevery=max(1, len(x) // 8) if many else 1,
        markersize=5,
    )
    for place in hollow:
        axes.plot(
            [place],
            [statistics.fmean(curve[place])],
            color=colour,
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            markerfacecolor="white",
        )
    plots.draw_band(axes, curve, colour)


def _series(study: Mapping[str, Any]) -> dict[str, list[Record]]:
    """Return the records by the name of their series."""
    series: dict[str, list[Record]] = {}
    for record in study["records"]:
        name = method_name(record["method"])
        if study["by_route"] and record["route"] != "score":
            name += f": {tables.ROUTES.get(record['route'], record['route'])}"
        series.setdefault(name, []).append(record)
    return series


def _by_place(records: Sequence[Record], places: Mapping[str, float]) -> dict[float, list[float]]:
    """Return x -> scores over seeds; all seeds of a point share one x, the mean of theirs."""
    points: dict[str, list[Record]] = {}
    for record in records:
        points.setdefault(record["point"], []).append(record)
    return {
        places[point] if places else statistics.fmean(r["x"] for r in group): [r["score"] for r in group]
        for point, group in points.items()
    }
