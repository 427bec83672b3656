"""Shadow clients: the attacker plays each client itself, with data of its own, in every round.

A client's head never leaves it, and a gradient without the right head points elsewhere. A shadow client runs the same
code, from the same seed, on the same received adapters, but on the attacker's own questions. It gives the attacker a
head that is close to the client's, and the update that the client would have sent without the questions under attack.
After Shokri et al., "Membership Inference Attacks Against Machine Learning Models", IEEE S&P 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from feddat.algorithms.base import MAIN_HEAD
from feddat.audit.candidates import Candidates
from feddat.audit.replay import Trace, flat
from feddat.client.member import Prepared
from feddat.config import RunConfig
from feddat.example import Example
from feddat.experiment.single.federation import Federation, build_federation
from feddat.experiment.single.foundation import answering_state


@dataclass(frozen=True, slots=True)
class Turn:
    """One shadow client's round.

    Attributes:
        sent: the shared part after its training.
        update: what its training added to the shared part, (D,).
        head: its head on the global route after the round, a copy in evaluation mode.
    """

    sent: dict[str, Tensor]
    update: Tensor
    head: nn.Module


class ShadowClients:
    """One shadow client per client of a run, trained on that client's shadow examples.

    Args:
        config: the run's, with an algorithm's name as method.
        trace: the run.
        candidates: by client; their shadow examples are the training data.
        folder: for the shadow clients' states, empty.
    """

    def __init__(self, config: RunConfig, trace: Trace, candidates: Mapping[str, Candidates], folder: Path) -> None:
        self._trace = trace
        clients = [
            replace(trace.federation.data[name], train=those.shadow, validation=those.shadow, test=those.shadow)
            for name, those in candidates.items()
        ]
        self.federation: Federation = build_federation(shadow_config(config, trace.federation), clients, folder)
        self._same_method = self.federation.foundation.algorithm.name == trace.federation.foundation.algorithm.name

    def rehearse(self, rounds: Sequence[int], say: Callable[[int], None]) -> dict[int, dict[str, Turn]]:
        """Play all rounds up to the last of ``rounds``; return those of ``rounds``, by client.

        Heads are personal, so that the rounds between have to be played as well.
        """
        found: dict[int, dict[str, Turn]] = {}
        played = [round for round in self._trace.rounds if round <= max(rounds, default=0)]
        for done, round in enumerate(played):
            say(done)
            received = self._trace.before(round)
            turns = {name: self._turn(name, received, round) for name in self.federation.data}
            if round in rounds:
                found[round] = turns
        return found

    def _turn(self, client: str, received: Mapping[str, Tensor], round: int) -> Turn:
        foundation = self.federation.foundation
        # A method that shares a part of the adapter is played by one that shares all of it.
        whole = received if self._same_method else foundation.initial_shared() | dict(received)
        owner = self.federation.owner(client)
        result = owner.fit({key: value.clone() for key, value in whole.items()}, round)
        sent = {key: value for key, value in (result.shared or {}).items() if key in received}
        name = foundation.algorithm.heads(foundation.config.algorithm).get("global", MAIN_HEAD)
        head = copy.deepcopy(owner.members[client].heads[name]).eval()
        return Turn(sent, flat(sent) - flat(dict(received)), head)

    def personal_losses(self, client: str, examples: Sequence[Example]) -> Tensor | None:
        """Return losses under a shadow client's own model after the last round, (n,), float64.

        ``None``: the run's method keeps more on the server than a shadow client is played with.
        """
        return personal_losses(self.federation, self._trace, client, examples) if self._same_method else None


def shadow_config(config: RunConfig, federation: Federation) -> RunConfig:
    """Return the settings that shadow clients run with.

    They are the run's, without noise for privacy, which would only blur the comparison. A method whose server sends
    arrays of its own cannot be played without that server; FedAvg takes its place.
    """
    changes: dict[str, object] = {"privacy.epsilon": None, "secure_aggregation.enabled": False}
    if federation.foundation.algorithm.server is not None or federation.foundation.algorithm.centralised:
        changes["method"] = "fedavg"
    return config.updated({key: value for key, value in changes.items() if config.value(key) != value})


def personal_losses(federation: Federation, trace: Trace, client: str, examples: Sequence[Example]) -> Tensor:
    """Return losses under a client's personal model and head after a run, (n,), float64.

    They are those of the first route that can be exported: a mixture of answers is not a model with a loss.
    """
    owner, state = federation.owner(client), trace.state
    received = answering_state(federation.foundation, state)
    answering = owner.answering(received)
    member = owner.members[client]
    part = Prepared(
        member.encode_unseen(examples), member.task.targets(examples).to(member.device), len(examples), None
    )
    return answering.example_losses(member, part, answering.exportable(owner.routes(received.final)))


def mean_sent(turns: Mapping[str, Turn]) -> dict[str, Tensor]:
    """Return the mean of the shared parts that shadow clients sent in one round."""
    sent = [turn.sent for turn in turns.values()]
    return {key: torch.stack([one[key] for one in sent]).mean(dim=0) for key in sent[0]}
