"""What runs lack: clients without a score, replies that could not be used, and rounds that changed nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from feddat.report.tables import Summary, run_title

#: Most runs to name; the others are counted.
MOST_RUNS = 4


def left_out(summaries: Sequence[Summary]) -> list[str]:
    """Return sentences about runs that lack something; none if nothing is lacking.

    Clients that do not share their scores are not missing. The table of a single run names them.
    """
    replies: list[str] = []
    scores: list[str] = []
    unscored: list[str] = []
    unchanged: list[str] = []
    for summary in summaries:
        counts = [f"{count} {word}" for word in ("failed", "refused") if (count := summary.get(word))]
        if counts:
            replies.append(f"{_named(summary)}: {' and '.join(counts)}")
        if rounds := summary.get("without_update"):
            unchanged.append(f"{_named(summary)}: {_places(rounds)} of {summary['rounds']}")
        missing = [name for name in summary.get("missing", ()) if name not in summary.get("not_shared", ())]
        if not summary["clients"] and not (len(summaries) == 1 and summary.get("not_shared")):
            unscored.append(_named(summary))
        elif missing:
            scores.append(f"{_named(summary)}: {', '.join(missing)}")
    found = []
    if unscored:
        found.append(f"No client has a score in {_some(unscored)}.")
    if scores:
        if len(summaries) == 1:
            found.append(f"Clients without a score, which the mean leaves out: {_some(scores)}.")
        else:
            found.append(
                f"Clients without a score: {_some(scores)}. Means leave out runs that lack a client of others."
            )
    if replies:
        found.append(f"Replies of clients that could not be used: {_some(replies)}. The run's log.jsonl says why.")
    if unchanged:
        found.append(f"Rounds after which the global adapter stayed as it was: {_some(unchanged)}. log.jsonl says why.")
    return found


def lacking(runs: Mapping[str, Collection[str]], clients: Collection[str]) -> list[str]:
    """Return a sentence about the runs (name in print -> clients with a score) that lack clients; none if none does."""
    lacks = {run: [client for client in clients if client not in own] for run, own in runs.items()}
    named = [f"{run}: {', '.join(names)}" for run, names in lacks.items() if names]
    return [f"Left out, since they lack the score of a client that others have: {_some(named)}."] if named else []


def _named(summary: Summary) -> str:
    source = summary.get("benchmark")
    return f"{run_title(summary)}, seed {summary['seed']}{f' on {source}' if source else ''}"


def _places(rounds: Sequence[int]) -> str:
    """Return the numbers of rounds, or how many they are."""
    if len(rounds) > MOST_RUNS:
        return f"{len(rounds)} rounds"
    return f"round{'s'[: len(rounds) != 1]} {', '.join(map(str, rounds))}"


def _some(runs: Sequence[str]) -> str:
    more = len(runs) - MOST_RUNS
    return "; ".join(runs[:MOST_RUNS]) + (f"; {more} more runs" if more > 0 else "")
