"""Communication between the server and its clients: a row of numbers per method, and a picture of the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feddat.report import tables

#: Most clients drawn in the picture; its last line counts the others.
DRAWN = 8
#: Bytes of a number in the format in which a whole model would travel, float32.
WIDTH = 4


def rows(groups: Mapping[str, Sequence[tables.Summary]]) -> list[dict[str, Any]]:
    """Return one row per method: parameters, bytes, and the bytes that sending the whole model would have taken.

    These are the bytes of all its parameters in :data:`WIDTH` bytes each, in every round to each client that trains and
    back.
    """
    found = []
    for group in groups.values():
        summary = group[0]
        parameters = tables.counts_of(group)
        sent = summary.get("bytes", {})
        up, down = int(sent.get("up", 0)), int(sent.get("down", 0))
        communicated, total = int(parameters.get("communicated", 0)), int(parameters.get("total", 0))
        turns = max(1, len(taking_part(summary))) * summary["rounds"] * summary.get("fraction", 1.0)
        found.append(
            {
                "method": tables.run_title(summary),
                "total": total,
                "trainable": int(parameters.get("trainable", 0)),
                "communicated": communicated,
                "share": 100 * communicated / total if total else 0.0,
                "up": up,
                "down": down,
                "per_round": up / turns,
                "whole": 2 * WIDTH * total * turns if communicated else None,
                "passes": summary.get("passes"),
                "seconds": sum(float(run.get("seconds") or 0) for run in group) / len(group),
            }
        )
    return found


def taking_part(summary: tables.Summary) -> list[str]:
    """Return the clients that took part, including those without a score."""
    return list(dict.fromkeys([*summary["clients"], *summary.get("not_shared", ()), *summary.get("missing", ())]))


def flow(summaries: Sequence[tables.Summary]) -> dict[str, Any] | None:
    """Return the data of the picture: one run of the first method that communicates; ``None`` if there is none."""
    for group in tables.by_method(summaries).values():
        run = group[0]
        communicated = int(tables.counts_of(group).get("communicated", 0))
        sent = run.get("bytes", {})
        clients = taking_part(run)
        if not communicated or not clients or not sent.get("up"):
            continue
        return {
            "method": tables.run_title(run),
            "clients": clients[:DRAWN],
            "more": max(0, len(clients) - DRAWN),
            "communicated": communicated,
            "up": int(sent["up"]) / len(clients),
            "down": int(sent.get("down", 0)) / len(clients),
            "rounds": run["rounds"],
        }
    return None
