"""The conclusion of a page in sentences: which method is ahead, by how much, and how certain that is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from feddat.report.means import all_clients, is_whole, means
from feddat.report.method_table import reference_of
from feddat.report.significance import Difference, paired_differences, signed
from feddat.report.tables import REFERENCES, Summary, by_method, own_scores, run_title

#: With fewer local steps per client, a comparison says nothing about longer training (docs/results.md).
FEW_STEPS = 1000


def conclusion(summaries: Sequence[Summary], reference: str | None = None) -> list[str]:
    """Return the sentences, or none if no client has a score. Brackets hold 95 % intervals.

    Runs in which no client has a score do not count.

    Args:
        summaries: the runs of one federation, or of several joined (``method_table.joined``).
        reference: the method to compare the others with; default: FedDAT, or the first of its variants among the runs.
    """
    summaries = [summary for summary in summaries if summary["clients"]]
    groups = by_method(summaries)
    if not groups:
        return []
    if len(groups) == 1:
        return [*_alone(next(iter(groups.values()))), *_caution(summaries)]
    ours = reference or reference_of(groups) or _best(groups)
    return [*(_against(ours, groups) if ours in groups else []), *_caution(summaries)]


def _alone(runs: Sequence[Summary]) -> list[str]:
    """Return the mean score of one method, and its best and its worst client; nothing if no run has all clients."""
    found = [own_scores(run) for run in runs]
    clients = all_clients(found)
    scores = next((run for run in found if is_whole(run, clients)), None)
    if scores is None:
        return []
    best, worst = max(scores, key=lambda c: scores[c]), min(scores, key=lambda c: scores[c])
    mean = statistics.fmean(means(found, clients))
    sentence = f"{run_title(runs[0])} scores {mean:.1f} % on average over {_clients(len(scores))}"
    if best != worst:
        sentence += f", from {scores[worst]:.1f} % ({worst}) to {scores[best]:.1f} % ({best})"
    return [sentence + "."]


def _against(ours: str, groups: Mapping[str, Sequence[Summary]]) -> list[str]:
    scores = {method: {run["seed"]: own_scores(run) for run in runs} for method, runs in groups.items()}
    found = paired_differences(scores, ours)
    titles = {method: run_title(runs[0]) for method, runs in groups.items()}
    ahead: list[str] = []
    behind: list[str] = []
    unsettled: list[str] = []
    for method, difference in found.items():
        if difference is None:
            continue
        text = f"{titles[method]} by {abs(difference.mean):.1f} points {_interval(difference)}"
        if titles[method] in REFERENCES:
            text = f"{titles[method]} (which pools the data) by {abs(difference.mean):.1f} points"
        if not difference.clear:
            unsettled.append(f"{titles[method]} ({signed(difference.mean)} {_interval(difference)})")
        else:
            (ahead if difference.mean > 0 else behind).append(text)
    sentences = []
    if ahead:
        sentences.append(f"{titles[ours]} is ahead of {_list(ahead)}.")
    if behind:
        sentences.append(f"{'It' if ahead else titles[ours]} is behind {_list(behind)}.")
    if unsettled:
        whose = "Its difference" if sentences else f"The difference of {titles[ours]}"
        sentences.append(f"{whose} to {_list(unsettled)} is not settled: the interval includes 0.")
    return sentences


def _caution(summaries: Sequence[Summary]) -> list[str]:
    """Return caveats: too few seeds, or too short training."""
    seeds = len({run["seed"] for run in summaries})
    steps = [float(run["steps"]) for run in summaries if run.get("steps")]
    several = len({run["method"] for run in summaries}) > 1
    found = []
    if several and seeds < 3:
        found.append(f"{'One seed is' if seeds == 1 else 'Two seeds are'} a first look; use three or more to decide.")
    if several and steps and max(steps) < FEW_STEPS:
        found.append(
            f"A client took {max(steps):.0f} steps at most: this compares short training. "
            f"Longer training can reverse the order."
        )
    return found


def _best(groups: Mapping[str, Sequence[Summary]]) -> str:
    """Return the method with the highest mean over clients, of runs that have all of them."""
    clients = all_clients(run["clients"] for runs in groups.values() for run in runs)
    found = {method: means(map(own_scores, runs), clients) for method, runs in groups.items()}
    return max(found, key=lambda method: statistics.fmean(found[method]) if found[method] else -1.0)


def _clients(number: int) -> str:
    return f"{number} client{'s'[: number != 1]}"


def _interval(difference: Difference) -> str:
    return f"[{signed(difference.low)}, {signed(difference.high)}]"


def _list(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
