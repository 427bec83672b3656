"""Limits on what an audit finds, so that it can guard a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from feddat.audit.errors import AuditError
from feddat.audit.membership import CONTROL


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits; ``None``: no limit.

    Attributes:
        auc: the AUC of the best membership attack, between 0 and 1.
        tpr: its true-positive rate at 1 % false positives, between 0 and 1.
        epsilon: the lower bound on ε.
        reconstructed: patches, words, questions or pictures rebuilt from one message of a client of the run, with the
            run's own settings.
    """

    auc: float | None = None
    tpr: float | None = None
    epsilon: float | None = None
    reconstructed: int | None = None


def exceeded(result: Mapping[str, Any], limits: Limits) -> list[str]:
    """Return a sentence for each figure above its limit. The figure counts, not its interval.

    Raises:
        AuditError: the audit did not measure what a limit is about; the message names it.
    """
    found = []
    rows = {
        f"{view}, {signal}": row
        for view, signals in result["membership"].items()
        if view != CONTROL
        for signal, row in signals.items()
    }
    checks: tuple[tuple[str, float | None, Callable[[Mapping[str, Any]], float]], ...] = (
        ("AUC", limits.auc, lambda row: row["auc"][0]),
        ("true-positive rate at 1 % false positives", limits.tpr, lambda row: row["tpr"]["0.01"][0]),
    )
    for what, most, figure in checks:
        for name, row in rows.items():
            if most is not None and figure(row) > most:
                found.append(f"membership ({name}): {what} is {figure(row):.3f}, at most {most:g} allowed")
    if limits.epsilon is not None:
        for view, bound in _part(result, "canaries", "canaries")["views"].items():
            if bound["epsilon"] > limits.epsilon:
                found.append(
                    f"canaries ({view}): ε is at least {bound['epsilon']:.2f}, at most {limits.epsilon:g} allowed"
                )
    if limits.reconstructed is not None:
        for name, row in _part(result, "reconstruction", "reconstruction")["this_run"].items():
            if row["recovered"] > limits.reconstructed:
                found.append(
                    f"reconstruction ({name}): {row['recovered']} recovered, at most {limits.reconstructed} allowed"
                )
    return found


def _part(result: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    if key not in result:
        raise AuditError(f"{what}: a limit is set, but this audit did not measure it")
    part: Mapping[str, Any] = result[key]
    return part
