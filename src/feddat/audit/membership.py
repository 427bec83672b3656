"""Membership inference: which of these questions did a client train on?

There are three attackers, by what they hold:

| view | holds | is |
| --- | --- | --- |
| ``server`` | every round's global adapter, each client's update | a server that keeps all messages |
| ``sum`` | every round's global adapter | that server under secure aggregation; any client of the run |
| ``model`` | a client's personal model after the last round | whoever is given an exported model |

Signals, each higher for a member; gradients are taken at the adapter that was sent out, with a shadow client's head:

| signal | score |
| --- | --- |
| ``loss`` | fall of the loss by the update, beside a shadow client's update; ``model``: the loss, turned round |
| ``cosine`` | −cos of gradient and update |
| ``others`` | ``cosine`` beside the updates of other clients (FedMIA) |
| ``whitened`` | −gᵀ Σ⁻¹ Δ, gradients in AdamW's units |
| ``calibrated`` | ``whitened`` beside a shadow client's update and those of other clients, by ‖g‖ |
| ``combined`` | mean of ``loss`` and ``calibrated`` |

The control attacks the model as it was before the run, which has seen nobody's data. What it finds is a difference
between the two groups of questions, and no leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from feddat.audit import signals, statistics
from feddat.audit.candidates import Candidates
from feddat.audit.probe import Probe
from feddat.audit.replay import Trace
from feddat.audit.shadow import ShadowClients, Turn, mean_sent, personal_losses
from feddat.config import RunConfig
from feddat.seeding import numpy_generator

VIEWS = ("server", "sum", "model")
#: Mean of a view's averaged signals. Bounds from canaries are computed with it: it was chosen before any were seen.
COMBINED = "combined"
_AVERAGED = ("loss", "calibrated")
CONTROL = "control"

#: Receives what is being done, how much of it is done, and of how much.
Say: TypeAlias = Callable[[str, int, int], None]
#: View -> signal -> scores per attacked round.
_Rounds: TypeAlias = dict[str, dict[str, list[Tensor]]]


@dataclass
class ClientScores:
    """An attack's scores of one client's candidates: view -> signal -> (rounds, n), standardised.

    Attributes:
        members: of the members.
        others: of the non-members.
    """

    members: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def attacked_rounds(rounds: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` rounds, evenly spread from the first to the last."""
    if count >= len(rounds):
        return list(rounds)
    return [rounds[round(place)] for place in np.linspace(0, len(rounds) - 1, count)] if count > 1 else [rounds[-1]]


def attack(
    config: RunConfig,
    trace: Trace,
    candidates: Mapping[str, Candidates],
    views: Sequence[str],
    rounds: int,
    folder: Path,
    say: Say,
) -> dict[str, ClientScores]:
    """Return the scores of every client's candidates.

    Args:
        config: the run's, with an algorithm's name as method.
        trace: the run.
        candidates: by client.
        views: of :data:`VIEWS`.
        rounds: how many rounds are attacked, at most.
        folder: for the shadow clients' states, empty.
        say: receives progress.

    Raises:
        AuditError: a client's model cannot be attacked in this way.
    """
    chosen = attacked_rounds(trace.rounds, rounds)
    shadows = ShadowClients(config, trace, candidates, folder)
    played = len([round for round in trace.rounds if round <= max(chosen, default=0)])
    total = played + len(candidates) * max(1, len(chosen))
    rehearsed = shadows.rehearse(chosen, lambda done: say("", done, total))
    found = {}
    for place, (client, those) in enumerate(candidates.items()):

        def told(done: int, before: int = played + place * len(chosen)) -> None:
            say("", before + done, total)

        scores = _by_round(trace, client, those, views, rehearsed, told)
        if "model" in views:
            scores["model"] = _from_model(trace, shadows, client, those)
        found[client] = _standardised(scores, len(those.members), len(those.non_members))
    return found


def _by_round(
    trace: Trace,
    client: str,
    those: Candidates,
    views: Sequence[str],
    rehearsed: Mapping[int, Mapping[str, Turn]],
    say: Callable[[int], None],
) -> _Rounds:
    """Return raw scores, from what travelled, of members, non-members and reference examples in this order."""
    scores: _Rounds = {view: {} for view in views if view != "model" and rehearsed}
    if not scores:
        return scores
    owner = trace.federation.owner(client)
    probe = Probe(trace.federation.foundation, owner.members[client])
    asked = probe.encode([*those.members, *those.non_members, *those.reference])
    probe.load(trace.before(trace.rounds[0]))
    scores[CONTROL] = {"loss": [-probe.losses(asked, next(iter(rehearsed.values()))[client].head)]}
    for done, (round, turns) in enumerate(rehearsed.items()):
        say(done)
        shadow = turns[client]
        attacked: dict[str, _Attacked] = {}
        if "sum" in scores:
            expected = torch.stack([turn.update for turn in turns.values()]).mean(dim=0)
            attacked["sum"] = _Attacked(trace.mean_update(round), [expected], [], trace.after(round), mean_sent(turns))
        own = trace.update(round, owner.name)
        if "server" in scores and own is not None:
            theirs = (trace.update(round, name) for name in trace.seen[round] if name != owner.name)
            others = [update for update in theirs if update is not None]
            sent = trace.seen[round][owner.name].sent
            attacked["server"] = _Attacked(own, [shadow.update], others, sent, shadow.sent)
        if not attacked:
            continue
        probe.load(trace.before(round))
        gradients = probe.gradients(asked, shadow.head)
        reference = gradients[len(gradients) - len(those.reference) :]
        units = signals.scaled(gradients, reference)
        updates = torch.cat([one.updates for one in attacked.values()])
        # One call for all views: most of the work is in the reference gradients.
        filtered = signals.whitened(units, updates, units[len(units) - len(those.reference) :])
        parts = torch.split(filtered, [len(one.updates) for one in attacked.values()])
        norms = units.norm(dim=1).double()
        for (view, one), part in zip(attacked.items(), parts, strict=True):
            _add(scores[view], one.scores(gradients, part, norms))
            falls = []
            for shared in (one.without, one.state):
                probe.load(shared)
                falls.append(probe.losses(asked, shadow.head))
            _add(scores[view], {"loss": falls[0] - falls[1]})
    return {view: found for view, found in scores.items() if found}


@dataclass(frozen=True, slots=True)
class _Attacked:
    """What one view has of one round.

    Attributes:
        update: the update under attack, (D,).
        expected: updates of shadow clients that stand for the same client without the questions under attack.
        others: updates of other clients.
        state: the shared part after the update.
        without: the shared part after the shadow client's update.
    """

    update: Tensor
    expected: list[Tensor]
    others: list[Tensor]
    state: Mapping[str, Tensor]
    without: Mapping[str, Tensor]

    @property
    def updates(self) -> Tensor:
        """All of its updates, (k, D): the one under attack, the expected ones, those of others."""
        return torch.stack([self.update, *self.expected, *self.others])

    def scores(self, gradients: Tensor, filtered: Tensor, norms: Tensor) -> dict[str, Tensor]:
        """Return signal -> scores (n,).

        Args:
            gradients: (n, D).
            filtered: (k, n), what whitening makes of :attr:`updates`.
            norms: (n,), of the gradients that were whitened.
        """
        found = {"cosine": signals.cosine(gradients, self.update), "whitened": filtered[0]}
        if self.others:
            compared = torch.stack([signals.cosine(gradients, other) for other in self.others])
            found["others"] = signals.against_others(found["cosine"], compared)
        # Shadow clients stand for the same data, other clients for the same round: each kind counts one half.
        kinds = torch.split(filtered[1:], [len(self.expected), len(self.others)])
        expected = torch.stack([part.mean(dim=0) for part in kinds if len(part)])
        return found | {"calibrated": signals.calibrated(filtered[0], expected, norms)}


def _add(scores: dict[str, list[Tensor]], found: Mapping[str, Tensor]) -> None:
    for signal, values in found.items():
        scores.setdefault(signal, []).append(values.double())


def _from_model(trace: Trace, shadows: ShadowClients, client: str, those: Candidates) -> dict[str, list[Tensor]]:
    """Return raw scores from a client's own model with its own head: its loss, also beside a shadow client's."""
    examples = [*those.members, *those.non_members, *those.reference]
    loss = personal_losses(trace.federation, trace, client, examples)
    expected = shadows.personal_losses(client, examples)
    found = {"loss": [-loss]}
    # The difference does not depend on how hard a question is: Watson et al., "On the Importance of Difficulty
    # Calibration in Membership Inference Attacks", ICLR 2022.
    return found if expected is None else found | {"calibrated": [expected - loss]}


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

    ``clients`` has each client's own AUC. ``by_round`` has the AUC of an attacker that stops watching after each of the
    attacked rounds. ``roc`` has false- and true-positive rates at some thresholds.
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
    """Return all clients' scores of members and non-members: means over all attacked rounds, or the first ``upto``."""
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
    """Return a curve of about a hundred points at most, denser at low false-positive rates."""
    keep = np.unique(np.searchsorted(false, np.concatenate([np.geomspace(5e-4, 1, 80), [0.0]]), side="right") - 1)
    return [[float(f), float(t)] for f, t in zip(false[keep], true[keep], strict=True)]
