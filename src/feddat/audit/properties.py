"""What a client's data is like: which answers it has, which kinds of question, and how many of each.

The attacker trains shadow clients on mixtures of its own questions, looks at what they send in one round, and learns by
ridge regression how the mixture shows in it. Then it reads the clients' messages. After Ateniese et al., "Hacking Smart
Machines with Smarter Ones", IJSN 10(3), 2015, and Melis, Song, De Cristofaro and Shmatikov, "Exploiting Unintended
Feature Leakage in Collaborative Learning", IEEE S&P 2019.

| source | the attacker reads |
| --- | --- |
| ``server`` | the client's own update |
| ``sum`` | the mean of all updates, the same for every client |
| ``losses`` | the training losses that the client reports (``share_metrics: scores``) |
| ``scores`` | the scores on its own questions that it reports after the round (``share_metrics: scores``) |
| ``guess`` | nothing: it guesses what its own questions are like on average |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddat.audit.candidates import Candidates
from feddat.audit.membership import Say
from feddat.audit.mixtures import Pool, draw_mixtures, opening
from feddat.audit.replay import Trace, flat
from feddat.audit.shadow import shadow_config
from feddat.audit.statistics import auc_estimate, share
from feddat.client.received import Received
from feddat.client.trainer import FitResult
from feddat.config import RunConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.federation import Federation, build_federation
from feddat.seeding import numpy_generator

Matrix = NDArray[np.float64]

GUESS = "guess"
#: Mean of the training losses among a client's metrics: the names that its algorithm logs.
_TRAIN = "train."
#: Kinds of question that are told apart: the most frequent openings, and the rest.
KINDS = 6
#: Strengths of the ridge that are tried, by leave-one-out error, as shares of the kernel's mean eigenvalue.
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class _Messages:
    """What shadow clients and the run's clients sent in one round, row by row.

    Attributes:
        known: of S shadow clients, (S, D).
        asked: of the run's clients, (K, D).
    """

    known: Matrix
    asked: Matrix


def infer(
    config: RunConfig,
    trace: Trace,
    candidates: Mapping[str, Candidates],
    shadows: int,
    seed: int,
    folder: Path,
    say: Say,
) -> dict[str, Any] | None:
    """Return what messages of the first round give away of clients' data, for JSON; ``None``: no question was asked.

    Args:
        config: the run's, with an algorithm's name as method.
        trace: the run.
        candidates: by client; the shadow and reference examples are the attacker's own questions.
        shadows: how many shadow clients are trained.
        seed: of their mixtures and of intervals.
        folder: for the shadow clients' states, empty.
        say: receives progress.
    """
    clients = {name: data for name, data in trace.federation.data.items() if data.task == "vqa" and name in candidates}
    if not clients or not trace.rounds:
        return None
    pool = Pool.of({name: [*candidates[name].shadow, *candidates[name].reference] for name in clients}, KINDS)
    size = int(np.median([len(data.train) for data in clients.values()]))
    split = config.eval.curve_split
    scored_on = int(np.median([len(data.split(split)) for data in clients.values()]))
    mixtures = draw_mixtures(pool, shadows, size, next(iter(clients.values())), seed, max(1, scored_on))
    federation = build_federation(shadow_config(config, trace.federation), mixtures, folder / "shadows")
    # The run's own clients once more, up to the scores that they report after the first round.
    asked = _scores_of_run(config, trace, clients, folder / "clients", say)
    results, scores = _played(federation, trace, split if asked is not None else None, say)
    sources = _sources(trace, clients, results)
    if asked is not None:
        routes = [route for route in scores[0] if all(route in one for one in (*scores, *asked))]
        tables = (np.array([[one[route] for route in routes] for one in told]) for told in (scores, asked))
        guess = sources.pop(GUESS)
        sources |= {"scores": _standardised(*tables), GUESS: guess}

    answers = pool.answers
    present = np.array([[answer in data.answers for answer in answers] for data in clients.values()])
    truth = np.stack([answer_shares(data.train, answers) for data in clients.values()])
    kinds = np.stack([pool.kind_shares(data.train) for data in clients.values()])
    known_answers = np.stack([answer_shares(one.train, answers) for one in mixtures])
    known_kinds = np.stack([pool.kind_shares(one.train) for one in mixtures])
    rows: dict[str, Any] = {}
    for source, messages in sources.items():
        told_answers = _told(messages, known_answers, len(clients), answer_shares(pool.examples, answers))
        told_kinds = _told(messages, known_kinds, len(clients), pool.kind_shares(pool.examples))
        generator = numpy_generator(seed, "audit", "properties", source)
        rows[source] = {
            "answers_auc": auc_estimate(told_answers[present], told_answers[~present], generator).to_json()
            if 0 < present.sum() < present.size
            else None,
            "top_answer": share(int((told_answers.argmax(1) == truth.argmax(1)).sum()), len(clients)).to_json(),
            "kind_error": float(np.abs(told_kinds - kinds).mean()),
            "top_kind": share(int((told_kinds.argmax(1) == kinds.argmax(1)).sum()), len(clients)).to_json(),
        }
    return {
        "round": trace.rounds[0],
        "shadow_clients": len(mixtures),
        "clients": len(clients),
        "answers": len(answers),
        "kinds": [*pool.kinds, "other"],
        "sources": rows,
        "counts": _counts(trace, clients, federation, mixtures),
    }


def _played(
    federation: Federation, trace: Trace, split: str | None, say: Say
) -> tuple[list[FitResult], list[dict[str, float]]]:
    """Return what every client makes of the first round's adapter, and its scores by route on a split after the round.

    ``None`` as split: there are no scores.
    """
    round, found, scores = trace.rounds[0], [], []
    initial = federation.foundation.initial_shared()
    before, after = initial | trace.before(round), initial | trace.after(round)
    for done, name in enumerate(federation.data):
        say("properties", done, len(federation.data))
        owner = federation.owner(name)
        found.append(owner.fit(_copied(before), round))
        if split is not None:
            scores.append(owner.evaluate(Received(_copied(after), round), split).scores.get(name, {}))
        owner.release()
    return found, scores


def _scores_of_run(
    config: RunConfig, trace: Trace, clients: Mapping[str, ClientData], folder: Path, say: Say
) -> list[dict[str, float]] | None:
    """Return the scores by route that a run's clients report after the first round; ``None``: they report none.

    They come from a repetition of the round, because the run itself may be scored only in later rounds.
    """
    algorithm = trace.federation.foundation.algorithm
    split = config.eval.curve_split
    alone = algorithm.server is None and not algorithm.centralised
    if config.share_metrics != "scores" or not alone or not all(data.split(split) for data in clients.values()):
        return None
    return _played(build_federation(config, list(clients.values()), folder), trace, split, say)[1]


def _copied(shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in shared.items()}


def _sources(
    trace: Trace, clients: Mapping[str, ClientData], results: Sequence[FitResult]
) -> dict[str, _Messages | None]:
    round = trace.rounds[0]
    received = trace.before(round)
    start = flat(received)
    sent = [flat({key: (one.shared or {})[key] for key in received}) - start for one in results]
    known = _directions(torch.stack(sent))
    owners = {name: trace.federation.owner(name).name for name in clients}
    found: dict[str, _Messages | None] = {}
    own = [trace.update(round, owner) for owner in owners.values()]
    there = [update for update in own if update is not None]
    if len(there) == len(own):
        found["server"] = _Messages(known, _directions(torch.stack(there)))
    mean = _directions(trace.mean_update(round)[None])
    found["sum"] = _Messages(known, mean.repeat(len(clients), axis=0))
    logged = [trace.seen[round][owner].metrics for owner in owners.values()]
    keys = [key for key in results[0].metrics if all(_TRAIN + key in one for one in logged)]
    keys = [key for key in keys if key in trace.federation.foundation.algorithm.logs]
    if keys:
        told = np.array([[one[_TRAIN + key] for key in keys] for one in logged])
        found["losses"] = _standardised(np.array([[one.metrics[key] for key in keys] for one in results]), told)
    return found | {GUESS: None}


def _directions(updates: torch.Tensor) -> Matrix:
    """Return updates (n, D) of length 1: how far AdamW goes says nothing of what it saw."""
    found: Matrix = torch.nn.functional.normalize(updates.double(), dim=1).numpy()
    return found


def _standardised(known: Matrix, asked: Matrix) -> _Messages:
    known, asked = np.log1p(known.clip(0)), np.log1p(asked.clip(0))
    spread = known.std(axis=0) + 1e-12
    return _Messages((known - known.mean(axis=0)) / spread, (asked - known.mean(axis=0)) / spread)


def _told(messages: _Messages | None, values: Matrix, clients: int, average: Matrix) -> Matrix:
    """Return what the attacker takes values (S, m) to be at the run's clients, (K, m)."""
    if messages is None:
        return average[None].repeat(clients, axis=0)
    return ridge(messages.known, values, messages.asked)


def ridge(known: Matrix, values: Matrix, asked: Matrix) -> Matrix:
    """Return ridge regression's predictions (K, m) for rows (K, D), from rows (S, D) with values (S, m).

    The regression has an intercept. Its strength has the least leave-one-out error, in closed form: with the hat
    matrix H, the error of row i without it is (y − Hy)ᵢ / (1 − Hᵢᵢ).
    """
    centre, mean = known.mean(axis=0), values.mean(axis=0)
    rows, targets = known - centre, values - mean
    kernel = rows @ rows.T
    sizes, vectors = np.linalg.eigh(kernel)
    sizes = sizes.clip(0)
    best, chosen = np.inf, np.zeros((len(known), values.shape[1]))
    for strength in _RIDGES:
        weight = strength * sizes.mean() + 1e-30
        hat = (vectors * (sizes / (sizes + weight))) @ vectors.T + 1 / len(known)
        left = (targets - hat @ targets) / (1 - hat.diagonal())[:, None].clip(1e-9)
        if (error := float(np.square(left).mean())) < best:
            best, chosen = error, (vectors / (sizes + weight)) @ (vectors.T @ targets)
    found: Matrix = (asked - centre) @ rows.T @ chosen + mean
    return found


def answer_shares(examples: Sequence[Example], answers: Sequence[str]) -> Matrix:
    """Return the share of examples that have each answer, (A,)."""
    counts = Counter(answer for example in examples for answer in example.answers)
    return np.array([counts[answer] for answer in answers]) / max(1, len(examples))


def _counts(
    trace: Trace, clients: Mapping[str, ClientData], federation: Federation, mixtures: Sequence[ClientData]
) -> dict[str, Any]:
    """Return for how many clients the attacker knows the numbers of answers and examples, by ``share_metrics``.

    A client tells how many parameters it has, for reports. Its head has so many per answer, which shadow clients show.
    It also tells how many examples it has. With ``none`` it tells neither, and the attacker guesses.
    """
    sizes = np.array([len(one.answers) for one in mixtures])
    totals = np.array([federation.site(one.name).who.parameters["total"] for one in mixtures])
    per_answer, rest = np.polyfit(sizes, totals, 1) if len(set(sizes.tolist())) > 1 else (0.0, 0.0)
    told = [trace.federation.site(trace.federation.owner(name).name).who for name in clients]
    read = {
        "answers": [round((one.parameters["total"] - rest) / per_answer) if per_answer else -1 for one in told],
        "examples": [-1 if one.examples is None else one.examples for one in told],
    }
    guessed = {
        "answers": [round(float(np.median(sizes)))] * len(told),
        # What a consortium of this kind has, as far as its attacker's own rehearsals show.
        "examples": [round(float(np.median([len(one.train) for one in mixtures])))] * len(told),
    }
    truth = {
        "answers": [len(data.answers) for data in clients.values()],
        "examples": [len(data.train) for data in clients.values()],
    }
    exact, nothing = ({what: _right(numbers[what], truth[what]) for what in truth} for numbers in (read, guessed))
    return {"scores": exact, "counts": exact, "none": nothing}


def _right(told: Sequence[int], truth: Sequence[int]) -> list[int]:
    return [sum(one == other for one, other in zip(told, truth, strict=True)), len(truth)]


__all__ = ["GUESS", "KINDS", "answer_shares", "infer", "opening", "ridge"]
