"""The forest plot: differences of one method to all others with intervals, per federation and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from feddat.report import plots
from feddat.report.method_table import check_reference, joined, reference_of
from feddat.report.significance import Difference, Scores, paired_differences
from feddat.report.tables import Summary, by_method, own_scores, run_title

#: Title of the panel over all federations.
ALL = "all"


def differences(
    federations: Mapping[str, Sequence[Summary]], reference: str | None = None
) -> tuple[str, dict[str, dict[str, Difference]]]:
    """Return the reference's name in print, and panel (a federation, or all) -> rival -> reference minus rival.

    Args:
        federations: summaries by federation.
        reference: the method to compare with the others; default: FedDAT.

    Raises:
        DataError: the reference is not among the runs.
    """
    panels: dict[str, Sequence[Summary]] = dict(federations)
    if len(panels) > 1:
        panels[ALL] = joined(federations)
    titles = {s["method"]: run_title(s) for summaries in federations.values() for s in summaries}
    reference = reference or reference_of(titles) or "feddat"
    check_reference(reference, titles)
    found: dict[str, dict[str, Difference]] = {}
    for name, summaries in panels.items():
        scores: dict[str, Scores] = {
            method: {s["seed"]: own_scores(s) for s in group} for method, group in by_method(summaries).items()
        }
        ahead = paired_differences(scores, reference) if reference in scores else {}
        found[name] = {titles[method]: one for method, one in ahead.items() if one is not None}
    return titles[reference], found


def figure(federations: Mapping[str, Sequence[Summary]], reference: str | None = None) -> Figure:
    """Return the plot: a panel per federation and one over all, a row per rival; right of 0, the reference leads.

    Raises:
        DataError: see :func:`differences`.
    """
    called, panels = differences(federations, reference)
    with matplotlib.rc_context(plots.LIGHT_STYLE):
        return _draw(called, panels, plots.LIGHT, "white")


def inline(summaries: Sequence[Summary], label: str) -> str | None:
    """Return the plot of one federation as SVG in the colours of its page; ``None`` if no methods can be compared.

    Args:
        summaries: the runs.
        label: label for screen readers.
    """
    if reference_of(s["method"] for s in summaries) is None:
        return None
    called, panels = differences({"": summaries})
    if not any(panels.values()):
        return None
    with matplotlib.rc_context(plots.STYLE):
        return plots.svg(_draw(called, panels, plots.PLACEHOLDERS), label)


def _draw(
    called: str, panels: Mapping[str, Mapping[str, Difference]], colours: Mapping[str, str], paper: str = "none"
) -> Figure:
    """Return the plot with the colours of CSS variables, on a background of colour ``paper``."""
    rivals = list(dict.fromkeys(rival for rows in panels.values() for rival in rows))
    width = 1.9 * len(panels) + 1.6 if len(panels) > 1 else 5.2
    drawn = Figure(figsize=(width, 0.9 + 0.3 * len(rivals)), layout="constrained", facecolor=paper)
    every = drawn.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(every, panels.items(), strict=True):
        axes.patch.set_alpha(0)
        axes.axvline(0, color=colours["--muted"], linewidth=0.8)
        for place, rival in enumerate(rivals):
            if rival not in rows:
                continue
            difference = rows[rival]
            shade = colours["--s1" if difference.low > 0 else "--s2" if difference.high < 0 else "--s5"]
            axes.plot([difference.low, difference.high], [place, place], color=shade, linewidth=2)
            axes.plot([difference.mean], [place], "o", color=shade, markersize=5)
        axes.set_title(name, fontsize=9, fontweight="bold" if name == ALL else "normal")
        axes.grid(visible=False, axis="y")
    every[0].set_yticks(range(len(rivals)), rivals, color=colours["--ink"])
    every[0].set_ylim(max(1, len(rivals)) - 0.5, -0.5)
    drawn.supxlabel(f"{called} minus the other, points of test score, with 95 % interval", fontsize=9)
    return drawn


def picture(federations: Mapping[str, Sequence[Summary]], reference: str | None = None) -> bytes:
    """Return the plot as PNG; the same runs give the same bytes."""
    return plots.picture(figure(federations, reference))
