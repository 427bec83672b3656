"""Plots as SVG text for HTML pages and as files: matplotlib draws them, in one style for all.

On a page (:data:`STYLE`, :func:`svg`), placeholder colours are replaced by CSS variables (``--s1`` ... for series,
``--ink``, ``--muted``, ``--line``), so that the same plot works on a light and on a dark page. Text stays text. Files
(:data:`LIGHT_STYLE`, :func:`picture`) have the colours of a light page.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Placeholder colour -> the CSS variable that replaces it.
INK, MUTED, _LINE = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{index:02x}" for index in range(1, 8))
_VARIABLES = {INK: "--ink", MUTED: "--muted", _LINE: "--line"} | {
    colour: f"--s{index}" for index, colour in enumerate(SERIES, start=1)
}

#: CSS variable -> its colour on a light page. Series also differ in lightness, for readers with colour blindness.
LIGHT = {
    "--ink": "#16202e",
    "--muted": "#5d6b7e",
    "--line": "#e1e6ed",
    "--s1": "#2459d8",
    "--s2": "#e07b00",
    "--s3": "#0d9276",
    "--s4": "#9a4fd0",
    "--s5": "#7b8798",
    "--s6": "#d23f7f",
    "--s7": "#8a6d1a",
}
#: Dots per inch of a picture.
_DOTS = 160
#: CSS variable -> the placeholder colour that it replaces.
PLACEHOLDERS = {variable: colour for colour, variable in _VARIABLES.items()}


def _style(ink: str, muted: str, line: str) -> Any:
    """Return matplotlib settings for plots with these colours of text, ticks and grid."""
    return {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }


#: matplotlib settings for plots in the colours of their page.
STYLE = _style(INK, MUTED, _LINE)
#: matplotlib settings for plots in files.
LIGHT_STYLE = _style(LIGHT["--ink"], LIGHT["--muted"], LIGHT["--line"])

#: A place on the horizontal axis.
_Place = TypeVar("_Place", int, float)
#: Round -> one score per seed.
Curve = Mapping[int, Sequence[float]]


def colour(index: int) -> str:
    """Return the placeholder colour of the series at ``index``; from the eighth series on, colours repeat."""
    return SERIES[index % len(SERIES)]


def learning_curves(curves: Mapping[str, Curve], limits: tuple[float, float], title: str) -> str:
    """Return one panel as SVG: score over rounds, one line per series, with a band of one standard deviation.

    Args:
        curves: series name -> curve.
        limits: range of the score axis, the same for all panels of a page.
        title: label for screen readers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.5, 2.3)
        for index, curve in enumerate(curves.values()):
            rounds = sorted(curve)
            means = [statistics.fmean(curve[r]) for r in rounds]
            marker = "o" if len(rounds) == 1 else None
            axes.plot(rounds, means, color=colour(index), linewidth=2, marker=marker, solid_capstyle="round")
            draw_band(axes, curve, colour(index))
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("round")
        return svg(figure, title)


def bars(values: Mapping[str, Sequence[float]], unit: str, title: str) -> str:
    """Return horizontal bars of means as SVG, with whiskers (one standard deviation), a dot per seed and the mean.

    Args:
        values: bar name -> one value per seed.
        unit: label of the value axis.
        title: label for screen readers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(5.2, 0.55 + 0.42 * len(values))
        largest = max((value for group in values.values() for value in group), default=1.0) or 1.0
        for index, group in enumerate(values.values()):
            mean = statistics.fmean(group)
            axes.barh(index, mean, height=0.62, color=colour(index), alpha=0.85)
            end = max(group)
            if len(group) > 1:
                std = statistics.stdev(group)
                axes.errorbar(mean, index, xerr=std, color=INK, linewidth=1.2, capsize=3)
                axes.scatter(group, [index] * len(group), s=9, color=INK, alpha=0.55, linewidths=0, zorder=3)
                end = max(end, mean + std)
            axes.text(end + 0.02 * largest, index, f"{mean:.1f}", va="center", fontweight="bold")
        axes.set_xlim(0, largest * 1.14)
        name_rows(axes, values, unit)
        return svg(figure, title)


def draw_band(axes: Axes, curve: Mapping[_Place, Sequence[float]], colour: str) -> None:
    """Draw a band of one standard deviation over seeds around the means of a curve, if there is any deviation.

    Args:
        axes: where to draw.
        curve: horizontal place -> one value per seed.
        colour: colour of the curve.
    """
    places = sorted(curve)
    means = [statistics.fmean(curve[place]) for place in places]
    spread = [statistics.stdev(curve[place]) if len(curve[place]) > 1 else 0.0 for place in places]
    if any(spread):
        low = [mean - std for mean, std in zip(means, spread, strict=True)]
        high = [mean + std for mean, std in zip(means, spread, strict=True)]
        axes.fill_between(places, low, high, color=colour, alpha=0.16, linewidth=0)


def name_rows(axes: Axes, names: Iterable[str], unit: str) -> None:
    """Name the rows of a plot in place of a vertical axis, the first at the top; ``unit`` labels the other axis."""
    rows = list(names)
    axes.set_yticks(range(len(rows)), rows, color=INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit)


def score_limits(panels: Sequence[Mapping[str, Curve]]) -> tuple[float, float]:
    """Return a score range within 0 and 100 that contains all curves, with a margin."""
    scores = [score for curves in panels for curve in curves.values() for group in curve.values() for score in group]
    if not scores:
        return 0.0, 100.0
    room = max(2.0, 0.06 * (max(scores) - min(scores)))
    return max(0.0, min(scores) - room), min(100.0, max(scores) + room)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty transparent figure, sized in inches, and its axes; draw on it within :data:`STYLE`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def light_figure(width: float, height: float) -> Figure:
    """Return an empty white figure, sized in inches; draw on it within :data:`LIGHT_STYLE`."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def picture(figure: Figure, kind: Literal["png", "svg"] = "png") -> bytes:
    """Return the content of the figure's file of this kind; equal figures give equal bytes."""
    out = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    # A fixed salt, whichever, makes the ids in an SVG file those of the last time.
    with matplotlib.rc_context({"svg.hashsalt": "study", "svg.fonttype": "none"}):
        figure.savefig(out, format=kind, dpi=_DOTS, metadata=metadata)
    return out.getvalue()


def svg(figure: Figure, title: str) -> str:
    """Return the figure as an inline SVG element; equal figures give equal text."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    # The page sets the size and the font; a label for screen readers replaces the figure's metadata.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: (?:(bold) )?(?:\d+ )?([\d.]+px) [^;\"]*", _font, svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _font(match: re.Match[str]) -> str:
    weight = "font-weight: 700; " if match.group(1) or "700 " in match.group(0) else ""
    return f"{weight}font-size: {match.group(2)}"
