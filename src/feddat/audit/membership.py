"""Membership inference: which of these questions did a client train on?

Three attackers, by what they hold:

| view | holds | is |
| --- | --- | --- |
| ``server`` | every round's global adapter, each client's update | a server that keeps all messages |
| ``sum`` | every round's global adapter alone | that server under secure aggregation; any client of the run |
| ``model`` | a client's personal model after the last round | whoever is given an exported model |

and the signals of :mod:`.signals` that each can compute. The control attacks the model as it was before the run, which
nobody's data is in: what it finds is a difference between the two groups of questions, and no leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feddat.audit import signals, statistics
from feddat.audit.candidates import Candidates
from feddat.audit.probe import Encoded, Probe
from feddat.audit.replay import Trace
from feddat.client.member import Prepared
from feddat.experiment.single.foundation import answering_state
from feddat.seeding import numpy_generator

VIEWS = ("server", "sum", "model")
#: Mean over the signals of a view; the one that bounds from canaries are computed with, chosen before any is seen.
COMBINED = "combined"
#: Signals that are averaged.
_AVERAGED = ("loss", "cosine", "whitened")
CONTROL = "control"

#: Is told what is done, how much of it, and of how much.
Say: TypeAlias = Callable[[str, int, int], None]
#: View -> signal -> scores per attacked round.
_Rounds: TypeAlias = dict[str, dict[str, list[Tensor]]]


@dataclass
class ClientScores:
    """How an attack scores one client's candidates: view -> signal -> (rounds, n), standardised.

    Attributes:
        members: of the members.
        others: of the non-members.
    """

    members: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def attacked_rounds(rounds: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` rounds, evenly spread, the first and the last among them."""
    if count >= len(rounds):
        return list(rounds)
    return [rounds[round(place)] for place in np.linspace(0, len(rounds) - 1, count)] if count > 1 else [rounds[-1]]


def attack(
    trace: Trace, candidates: Mapping[str, Candidates], views: Sequence[str], rounds: int, seed: int, say: Say
) -> dict[str, ClientScores]:
    """Return the scores of every client's candidates.

    Args:
        trace: the run.
        candidates: by client.
        views: of :data:`VIEWS`.
        rounds: that are looked at, at most.
        seed: of the shadow heads.
        say: progress.

    Raises:
        AuditError: a client's model cannot be attacked so.
    """
    chosen = attacked_rounds(trace.rounds, rounds)
    total, found = len(candidates) * max(1, len(chosen)), {}
    for place, (client, those) in enumerate(candidates.items()):

        def told(done: int, before: int = place * len(chosen)) -> None:
            say("", before + done, total)

        scores = _by_round(trace, client, those, views, chosen, seed, told)
        if "model" in views:
            scores["model"] = {"loss": [-_personal_losses(trace, client, those)]}
        found[client] = _standardised(scores, len(those.members), len(those.non_members))
    return found


def _by_round(
    trace: Trace,
    client: str,
    those: Candidates,
    views: Sequence[str],
    rounds: Sequence[int],
    seed: int,
    say: Callable[[int], None],
) -> _Rounds:
    """Return raw scores of members, non-members and reference examples, one behind the other, from what travelled."""
    scores: _Rounds = {view: {} for view in views if view != "model" and rounds}
    if not scores:
        return scores
    owner = trace.federation.owner(client)
    probe = Probe(trace.federation.foundation, owner.members[client], seed)
    asked = probe.encode([*those.members, *those.non_members, *those.reference])
    shadow = probe.encode(those.shadow)
    probe.load(trace.before(trace.rounds[0]))
    probe.train_head(shadow)
    before = probe.losses(asked)
    scores[CONTROL] = {"loss": [-before]}
    for done, round in enumerate(rounds):
        say(done)
        received = trace.before(round)
        probe.load(received)
        probe.train_head(shadow)
        gradients = probe.gradients(asked)
        if "sum" in scores:
            _add(scores["sum"], _from_update(gradients, trace.mean_update(round), len(those.reference)))
            _add(scores["sum"], {"loss": _fall(probe, trace.after(round), asked, shadow, before)})
        own = trace.update(round, owner.name)
        if "server" in scores and own is not None:
            _add(scores["server"], _from_update(gradients, own, len(those.reference)))
            others = [trace.update(round, name) for name in trace.seen[round] if name != owner.name]
            known = [signals.cosine(gradients, update) for update in others if update is not None]
            if known:
                compared = signals.against_others(signals.cosine(gradients, own), torch.stack(known))
                _add(scores["server"], {"others": compared})
            _add(scores["server"], {"loss": _fall(probe, trace.seen[round][owner.name].sent, asked, shadow, before)})
    return {view: found for view, found in scores.items() if found}


def _from_update(gradients: Tensor, update: Tensor, references: int) -> dict[str, Tensor]:
    reference = gradients[len(gradients) - references :]
    return {
        "cosine": signals.cosine(gradients, update),
        "whitened": signals.whitened(gradients.double(), update.double(), reference.double()),
    }


def _fall(probe: Probe, shared: Mapping[str, Tensor], asked: Encoded, shadow: Encoded, before: Tensor) -> Tensor:
    """Return how far each example's loss is below that before the run: how hard it is cancels.

    Watson, Guo, Cormode, Sablayrolles: "On the Importance of Difficulty Calibration in Membership Inference Attacks",
    ICLR 2022.
    """
    probe.load(shared)
    probe.train_head(shadow)
    return before - probe.losses(asked)


def _add(scores: dict[str, list[Tensor]], found: Mapping[str, Tensor]) -> None:
    for signal, values in found.items():
        scores.setdefault(signal, []).append(values.double())


def _personal_losses(trace: Trace, client: str, those: Candidates) -> Tensor:
    """Return the losses of a client's own model, with its own head, on the route that it answers on."""
    owner, state = trace.federation.owner(client), trace.state
    final, extras = answering_state(trace.federation.foundation, state)
    answering = owner.answering(state.shared or None, state.round, final, extras)
    member, examples = owner.members[client], [*those.members, *those.non_members, *those.reference]
    part = Prepared(
        member.encode_unseen(examples), member.task.targets(examples).to(member.device), len(examples), None
    )
    return answering.example_losses(member, part, owner.routes(final)[0])


def _standardised(scores: _Rounds, members: int, others: int) -> ClientScores:
    found = ClientScores()
    for view, signals_found in scores.items():
        rows = {
            signal: torch.stack([signals.standardised(one, one[members + others :]) for one in values])
            for signal, values in signals_found.items()
        }
        if len(averaged := [rows[signal] for signal in _AVERAGED if signal in rows]) > 1:
            rows[COMBINED] = torch.stack(averaged).mean(dim=0)
        found.members[view] = {signal: row[:, :members] for signal, row in rows.items()}
        found.others[view] = {signal: row[:, members : members + others] for signal, row in rows.items()}
    return found


def summarise(found: Mapping[str, ClientScores], seed: int) -> dict[str, dict[str, Any]]:
    """Return view -> signal -> AUC and true-positive rates over all clients and rounds, with intervals, for JSON.

    ``clients``: each one's own AUC; ``by_round``: the AUC of whoever stopped watching after so many of the attacked
    rounds; ``roc``: false- and true-positive rates at some thresholds.
    """
    tables: dict[str, dict[str, Any]] = {}
    first = next(iter(found.values()))
    for view, names in first.members.items():
        for signal in names:
            generator = numpy_generator(seed, "audit", "bootstrap", view, signal)
            inside, outside = pooled(found, view, signal)
            row = statistics.summary(inside, outside, generator)
            row["clients"] = {
                client: statistics.auc(*(_mean(part[view][signal]) for part in (scores.members, scores.others)))
                for client, scores in found.items()
                if signal in scores.members.get(view, {})
            }
            row["by_round"] = [
                statistics.auc(*pooled(found, view, signal, upto)) for upto in range(1, len(names[signal]) + 1)
            ]
            row["roc"] = _thinned(*statistics.roc(inside, outside))
            tables.setdefault(view, {})[signal] = row
    return tables


def pooled(
    found: Mapping[str, ClientScores], view: str, signal: str, upto: int | None = None
) -> tuple[statistics.Scores, statistics.Scores]:
    """Return all clients' scores of members and of non-members: means over the attacked rounds, or the first ones."""
    sides = [[scores.members for scores in found.values()], [scores.others for scores in found.values()]]
    inside, outside = (
        np.concatenate([_mean(part[view][signal][:upto]) for part in side if signal in part.get(view, {})])
        for side in sides
    )
    return inside, outside


def _mean(rows: Tensor) -> statistics.Scores:
    mean: statistics.Scores = rows.mean(dim=0).numpy()
    return mean


def _thinned(false: statistics.Scores, true: statistics.Scores) -> list[list[float]]:
    """Return a curve of at most some hundred points, denser where few are wrong."""
    keep = np.unique(np.searchsorted(false, np.concatenate([np.geomspace(5e-4, 1, 80), [0.0]]), side="right") - 1)
    return [[float(f), float(t)] for f, t in zip(false[keep], true[keep], strict=True)]
