"""Means over clients, of the runs with scores of all of them: a mean that leaves out a hard client looks better."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping

#: Settings that choose the clients: runs that differ in one of them need not have the same.
CHOOSE_CLIENTS = ("benchmark", "only_clients", "split_clients")


def all_clients(runs: Iterable[Iterable[str]]) -> list[str]:
    """Return the clients of any of the runs, in order of first appearance."""
    return list(dict.fromkeys(client for run in runs for client in run))


def is_whole(run: Collection[str], clients: Collection[str]) -> bool:
    """Return whether a run has all the clients, of which there is at least one."""
    return bool(clients) and all(client in run for client in clients)


def means(runs: Iterable[Mapping[str, float]], clients: Collection[str]) -> list[float]:
    """Return the mean over the clients of each run (client -> score) that has all of them."""
    return [statistics.fmean(run[client] for client in clients) for run in runs if is_whole(run, clients)]
