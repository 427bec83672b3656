"""Whose membership is asked: a client's training questions, and questions of the same kind that it did not train on.

| part | what the attacker knows of it |
| --- | --- |
| members | what it guesses at: examples of the client's training split |
| non-members | what it guesses at too: unused examples, as many |
| shadow | its own examples of the same kind, unused: a head is trained on them in the place of the client's |
| reference | the same: how non-members score, for whitening and for comparing scores of rounds and clients |
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from feddat.audit.errors import AuditError
from feddat.benchmarks.mini import MINI
from feddat.config import RunConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.client_data import load_clients
from feddat.seeding import numpy_generator

log = logging.getLogger(__name__)

#: Unused examples are drawn this many times as often as needed: those with unknown answers are left out.
_MARGIN = 1.5
#: Fewer of any part say nothing.
LEAST = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """The examples of one client that an audit asks about or uses, all of answers that the client knows.

    Attributes:
        members, non_members, shadow, reference: see the module.
        source: where the unused ones are from, for the report.
    """

    members: tuple[Example, ...]
    non_members: tuple[Example, ...]
    shadow: tuple[Example, ...]
    reference: tuple[Example, ...]
    source: str


def draw_candidates(
    config: RunConfig, clients: Mapping[str, ClientData], examples: int, extra: int, seed: int
) -> tuple[dict[str, Candidates], dict[str, tuple[Example, ...]]]:
    """Return each client's candidates, and further unused examples of it: at most ``extra``, for canaries.

    Unused examples are, in this order: those that the generator of a mini federation draws next; those that the run's
    caps leave out of a training split; validation and test questions.

    Args:
        config: the run's.
        clients: its data, as it was trained on.
        examples: members at most, and as many of each other part.
        extra: per client.
        seed: of every choice.

    Raises:
        AuditError: a client has too few unused examples; names it.
    """
    needed = 2 * examples + extra
    unused = _unused(config, clients, needed)
    found, spare = {}, {}
    for name, data in clients.items():
        source, pool = unused[name]
        pool = [example for example in pool if _known(example, data)]
        generator = numpy_generator(seed, "audit", name)
        pool = [pool[i] for i in generator.permutation(len(pool))]
        canaries, pool = pool[:extra], pool[extra:]
        own = _known_without_it(data)
        if len(own) < LEAST:
            raise AuditError(
                f"client {name}: {len(own)} training questions whose answer another one has too, expected at least "
                f"{LEAST}"
            )
        count = min(examples, len(own), len(pool) // 2)
        if count < LEAST:
            raise AuditError(
                f"client {name}: {len(pool)} unused questions ({source}), expected at least {2 * LEAST}; cap the "
                "training examples (train_examples) so that some are left, or give it larger validation and test splits"
            )
        members = [own[i] for i in generator.permutation(len(own))[:count]]
        rest = pool[count:]
        half = min(len(rest) // 2, examples)
        found[name] = Candidates(
            tuple(members), tuple(pool[:count]), tuple(rest[:half]), tuple(rest[half : 2 * half]), source
        )
        spare[name] = tuple(canaries)
    return found, spare


def _known_without_it(data: ClientData) -> list[Example]:
    """Return the training examples whose answer the client would know without them too, as it does a non-member's.

    An answer that was given once is a rare one, and is in the list because its example was trained on: among members
    there would be more rare answers than among non-members, and the groups could be told apart without any leak.
    """
    if data.task != "vqa":
        return list(data.train)
    counts = Counter(answer for example in data.train for answer in example.answers)
    return [example for example in data.train if any(counts[answer] > 1 for answer in example.answers)]


def _known(example: Example, data: ClientData) -> bool:
    """Return whether an example's answer is one of the client's: others would be told from members by that alone."""
    return data.task != "vqa" or any(answer in data.answers for answer in example.answers)


def _unused(config: RunConfig, clients: Mapping[str, ClientData], needed: int) -> dict[str, tuple[str, list[Example]]]:
    """Return where each client's unused examples are from, and these."""
    if config.split_clients == 1 and config.benchmark in MINI:
        largest = max(len(data.train) for data in clients.values())
        # A mini split is a prefix of every larger one of its seed.
        more = config.model_copy(update={"train_examples": largest + int(_MARGIN * needed)})
        drawn = {data.name: data.train for data in load_clients(more)}
        how = "drawn from the same generator"
    elif config.split_clients == 1 and config.train_examples is not None:
        drawn = {data.name: data.train for data in load_clients(config.model_copy(update={"train_examples": None}))}
        how = "left out of the training split by train_examples"
    else:
        drawn, how = {}, ""
    found = {}
    for name, data in clients.items():
        used = {example.id for example in data.train}
        rest = [example for example in drawn.get(name, ()) if example.id not in used]
        if len(rest) >= 2 * LEAST:
            found[name] = how, rest
        else:
            found[name] = "validation and test questions", [*data.validation, *data.test]
    return found
