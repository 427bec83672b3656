"""Plots of the audit's attacks: ROC curves, figures with intervals, and AUC over the number of watched rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.ticker import MaxNLocator

from feddat.report.plots import INK, MUTED, STYLE, colour, name_rows, new_figure, svg

#: Lowest rate on the logarithmic axes.
_LEAST = 1e-3


def roc_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> str:
    """Return ROC curves as SVG, with logarithmic axes and a line for random guessing.

    Args:
        curves: attacker -> points (false-positive rate, true-positive rate), ascending.
        title: label for screen readers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.9, 3.3)
        axes.plot([_LEAST, 1], [_LEAST, 1], color=MUTED, linewidth=1, linestyle=":")
        for index, points in enumerate(curves.values()):
            false = [max(point[0], _LEAST) for point in points]
            true = [max(point[1], _LEAST) for point in points]
            axes.plot(false, true, color=colour(index), linewidth=2, drawstyle="steps-post")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(_LEAST, 1)
        axes.set_ylim(_LEAST, 1)
        axes.set_xlabel("non-members wrongly named (share)")
        axes.set_ylabel("members rightly named (share)")
        return svg(figure, title)


def intervals(rows: Mapping[str, Sequence[float]], chance: float, unit: str, title: str) -> str:
    """Return a forest plot as SVG: one row per figure, its value with its interval, and a line for random guessing.

    Args:
        rows: name -> value, lower end and upper end of its interval.
        chance: value that random guessing reaches.
        unit: label of the value axis.
        title: label for screen readers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(5.2, 0.7 + 0.3 * len(rows))
        axes.axvline(chance, color=MUTED, linewidth=1, linestyle=":")
        for index, (value, low, high) in enumerate(rows.values()):
            axes.plot([low, high], [index, index], color=colour(0), linewidth=2.5, alpha=0.55, solid_capstyle="round")
            axes.scatter([value], [index], s=26, color=INK, zorder=3, linewidths=0)
            axes.text(high, index, f"  {value:.3f}", va="center", color=INK)
        ends = [end for row in rows.values() for end in row] + [chance]
        room = 0.16 * (max(ends) - min(ends) or 1.0)
        axes.set_xlim(min(ends) - 0.3 * room, max(ends) + room)
        name_rows(axes, rows, unit)
        return svg(figure, title)


def over_rounds(curves: Mapping[str, Sequence[float]], rounds: Sequence[int], title: str) -> str:
    """Return the AUC over the last round that an attacker watches as SVG: a line per attacker and one for guessing.

    Args:
        curves: attacker -> AUC per attacked round.
        rounds: the attacked rounds.
        title: label for screen readers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.9, 3.3)
        axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=":")
        for index, curve in enumerate(curves.values()):
            axes.plot(rounds[: len(curve)], curve, color=colour(index), linewidth=2, marker="o", markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("watched up to round")
        axes.set_ylabel("AUC")
        return svg(figure, title)


def closeness(rows: Mapping[str, tuple[float, float]], enough: float, unit: str, title: str) -> str:
    """Return a row per reconstruction: where the attacker starts (hollow) and what it reaches (filled).

    Args:
        rows: name -> value at the start, value that is reached.
        enough: value from which on the original counts as rebuilt, a dotted line.
        unit: of the value axis.
        title: what a screen reader says.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(5.2, 0.7 + 0.3 * len(rows))
        axes.axvline(enough, color=MUTED, linewidth=1, linestyle=":")
        for index, (start, reached) in enumerate(rows.values()):
            axes.plot([start, reached], [index, index], color=colour(0), linewidth=1.5, alpha=0.55)
            axes.scatter([start], [index], s=26, facecolors="none", edgecolors=INK, zorder=3)
            axes.scatter([reached], [index], s=26, color=INK, zorder=3, linewidths=0)
        axes.set_xlim(min([0.0, *(end for row in rows.values() for end in row)]) - 0.02, 1)
        name_rows(axes, rows, unit)
        return svg(figure, title)
