"""Canaries: examples with a wrong answer. A coin decides for each whether it joins a client's training data.

A model can only learn a wrong answer by heart, so it shows more than a right one. The promise of differential privacy
holds for canaries as well: if they break a bound, it is no bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feddat.audit.candidates import Candidates
from feddat.audit.membership import COMBINED, CONTROL, ClientScores, pooled
from feddat.audit.one_run import ERROR, audit_scores
from feddat.example import ClientData, Example
from feddat.seeding import numpy_generator

#: The signal that each view is judged by.
_SIGNAL = {"server": COMBINED, "sum": COMBINED, "model": "loss"}


@dataclass(frozen=True, slots=True)
class Canaries:
    """One client's canaries.

    Attributes:
        inside: canaries in the training data.
        outside: canaries that were left out.
    """

    inside: tuple[Example, ...]
    outside: tuple[Example, ...]


def make_canaries(
    clients: Mapping[str, ClientData], spare: Mapping[str, Sequence[Example]], seed: int
) -> dict[str, Canaries]:
    """Return each client's canaries, made from its unused examples."""
    found = {}
    for name, examples in spare.items():
        generator = numpy_generator(seed, "audit", name, "canaries")
        made = [_wrong(example, clients[name], place, generator) for place, example in enumerate(examples)]
        coins = generator.integers(2, size=len(made)).astype(bool)
        found[name] = Canaries(
            tuple(one for one, coin in zip(made, coins, strict=True) if coin),
            tuple(one for one, coin in zip(made, coins, strict=True) if not coin),
        )
    return found


def _wrong(example: Example, data: ClientData, place: int, generator: np.random.Generator) -> Example:
    """Return an example with a wrong answer, drawn from the client's answers."""
    name = f"canary-{place}"
    if data.task == "vqa":
        wrong = [answer for answer in data.answers if answer not in example.answers] or list(data.answers)
        return replace(example, id=name, answers={wrong[generator.integers(len(wrong))]: 1.0})
    classes = {"nlvr2": 2, "snli-ve": 3}.get(data.task, max(2, len(example.choices)))
    return replace(
        example, id=name, label=(int(example.label or 0) + 1 + int(generator.integers(classes - 1))) % classes
    )


def with_canaries(clients: Sequence[ClientData], canaries: Mapping[str, Canaries]) -> list[ClientData]:
    """Return the clients' data with their canaries added to the training examples."""
    return [
        replace(data, train=(*data.train, *canaries[data.name].inside)) if data.name in canaries else data
        for data in clients
    ]


def as_candidates(candidates: Mapping[str, Candidates], canaries: Mapping[str, Canaries]) -> dict[str, Candidates]:
    """Return candidates with the canaries as members and non-members."""
    return {
        name: replace(candidates[name], members=one.inside, non_members=one.outside) for name, one in canaries.items()
    }


def bounds(found: Mapping[str, ClientScores], delta: float) -> dict[str, Any]:
    """Return lower bounds on ε by view (:mod:`.one_run`), with δ and the confidence, for JSON."""
    views = {}
    for view in next(iter(found.values())).members:
        if view == CONTROL:
            continue
        inside, outside = pooled(found, view, _SIGNAL[view])
        where: NDArray[np.bool_] = np.concatenate([np.ones(len(inside), bool), np.zeros(len(outside), bool)])
        views[view] = audit_scores(np.concatenate([inside, outside]), where, delta).to_json()
    return {"delta": delta, "confidence": 1 - ERROR, "views": views}
