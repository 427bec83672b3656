"""Count a run's local work, from the lines of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def local_steps(lines: Sequence[Mapping[str, Any]], until: int | None = None) -> float:
    """Return the local steps of a participant up to a round, as a mean over participants that trained."""
    trained = [line for line in lines if line.get("split") == "train" and (until is None or line["round"] <= until)]
    owners = {line["client"] for line in trained}
    steps = sum(float(line["metrics"].get("steps", 0)) for line in trained)
    return steps / max(1, len(owners))


def rounds_without_update(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the rounds after which the global adapter stayed as it was, since their updates gave none."""
    return sorted({line["round"] for line in lines if "kept" in line})


def passes(lines: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """Return how many views passed ``forward`` and ``backward`` through the model in training, over all clients.

    Return ``None`` if a client does not share these numbers.
    """
    trained = [line["metrics"] for line in lines if line.get("split") == "train"]
    if not trained or not all({"forward", "backward"} <= metrics.keys() for metrics in trained):
        return None
    return {way: round(sum(metrics[way] for metrics in trained)) for way in ("forward", "backward")}
