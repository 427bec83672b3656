"""What the page of an audit says of clients' data as a whole, and of rebuilt pictures and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from feddat.audit.matching import REBUILT
from feddat.audit.properties import GUESS
from feddat.report import attack_plots

_SOURCES = {
    "server": "each client's update",
    "sum": "the sum of all updates",
    "losses": "the training losses that each client reports",
    "scores": "the scores that each client reports after the round",
    GUESS: "nothing: a guess from the attacker's own questions",
}
#: Kind of client in a reconstruction's results -> what the page says that it does.
CLIENTS = {
    "without_policy": "does as asked",
    "with_policy": "keeps to its policy",
    "this_run": "this run's settings",
}
_SHARING = {
    "scores": "scores and counts (the default)",
    "counts": "counts",
    "none": "nothing beside the update",
}


def properties(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section on answers, kinds of question and counts; ``None``: the audit did not look at them."""
    if (found := result.get("properties")) is None:
        return None
    rows, intervals = [], {}
    for source, row in found["sources"].items():
        if row["answers_auc"] is not None:
            intervals[_SOURCES[source]] = row["answers_auc"]
        rows.append(
            {
                "what": _SOURCES[source],
                "auc": "–" if row["answers_auc"] is None else "{:.3f} ({:.3f}–{:.3f})".format(*row["answers_auc"]),
                "answer": _of(row["top_answer"][0], found["clients"]),
                "kind": _of(row["top_kind"][0], found["clients"]),
                "error": f"{100 * row['kind_error']:.1f}",
            }
        )
    counts = [
        {
            "shares": _SHARING[level],
            "examples": "{} of {}".format(*counted["examples"]),
            "answers": "{} of {}".format(*counted["answers"]),
        }
        for level, counted in found["counts"].items()
    ]
    title = "How well a client's answers are told from others"
    return {
        "rows": rows,
        "counts": counts,
        "plot": Markup(attack_plots.intervals(intervals, 0.5, "AUC", title)) if intervals else None,
        "note": f"{found['answers']} answers, {len(found['kinds'])} kinds of question by their first two words "
        f"({', '.join(found['kinds'])}), {found['clients']} clients, round {found['round']}, {found['shadow_clients']} "
        "rehearsals. Intervals treat pairs of client and answer as independent, and are therefore too narrow.",
    }


def _of(share: float, clients: int) -> str:
    return f"{round(share * clients)} of {clients}"


def remark(row: Mapping[str, Any]) -> str:
    """Return why an attack was not made, or how close whole questions come to the true ones; "": nothing to say."""
    if "refused" in row:
        return str(row["refused"])
    if "rouge" in row:
        figures = (" / ".join(f"{100 * figure:.0f}" for figure in row[key]) for key in ("rouge", "rouge_guess"))
        return "ROUGE-1/2/L {} (a guess: {})".format(*figures)
    return ""


def reconstruction(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section on rebuilt pictures and words; ``None``: the audit did not try."""
    if (found := result.get("reconstruction")) is None:
        return None
    rows, matched, curves = [], [], {}
    for key, client in CLIENTS.items():
        for name, row in found[key].items():
            one = {"what": row.get("what", name), "client": client, "remark": remark(row)} | dict(row)
            if "correlation" not in row:
                rows.append(one)
                continue
            start, reached = row["correlation"]
            known, named, there = row["words"]
            matched.append(
                one
                | {
                    "pictures": f"{reached:.2f} ({start:.2f})",
                    "psnr": "{1:.1f} ({0:.1f})".format(*row["psnr"]),
                    "words": f"{named} of {there} ({known})",
                }
            )
            size = f"{row['examples']} examples, {row['steps']} steps"
            curves[f"{row['what'].partition(':')[0]}: {size}"] = (start, reached)
    plot = None
    if curves:
        title = "How close gradient matching comes to the true pictures"
        plot = Markup(attack_plots.closeness(curves, REBUILT, "correlation with the true picture", title))
    return {"rows": rows, "matched": matched, "plot": plot, "enough": f"{REBUILT:g}"}
