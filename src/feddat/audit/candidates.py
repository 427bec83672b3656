"""The examples of an audit: a client's training questions, and questions of the same kind that it did not train on.

| part | use |
| --- | --- |
| members | under attack: examples of the client's training split |
| non-members | under attack: as many unused examples |
| shadow | the attacker's own unused examples, on which it trains a shadow client |
| reference | the attacker's own unused examples; they show how non-members score, for whitening and standardising |
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

#: Draw this many times the unused examples that are needed, because those with unknown answers are left out.
_MARGIN = 1.5
#: Reference examples to aim for: fewer describe the common directions of gradients badly.
REFERENCES = 200
#: Least size of each part; fewer examples say nothing.
LEAST = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """The examples of one client's audit. The client knows an answer of each.

    Attributes:
        members, non_members, shadow, reference: see the module.
        source: origin of the unused examples, for the report.
    """

    members: tuple[Example, ...]
    non_members: tuple[Example, ...]
    shadow: tuple[Example, ...]
    reference: tuple[Example, ...]
    source: str


def draw_candidates(
    config: RunConfig, clients: Mapping[str, ClientData], examples: int, extra: int, seed: int
) -> tuple[dict[str, Candidates], dict[str, tuple[Example, ...]]]:
    """Return each client's candidates, and at most ``extra`` further unused examples per client, for canaries.

    Unused examples come from the first of these sources that has enough: what the generator of a mini federation draws
    next; what the run's caps leave out of a training split; validation and test questions.

    Args:
        config: the run's.
        clients: the clients' data, as the run trained on it.
        examples: largest number of members, and of non-members.
        extra: further unused examples per client.
        seed: of every choice.

    Raises:
        AuditError: a client has too few unused examples; the message names it.
    """
    references = max(examples, REFERENCES)
    needed = examples + extra + references + max(len(data.train) for data in clients.values())
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
                f"client {name}: {len(own)} training questions share their answer with another one, expected at least "
                f"{LEAST}"
            )
        count = min(examples, len(own), len(pool) // 3)
        if count < LEAST:
            raise AuditError(
                f"client {name}: {len(pool)} unused questions ({source}), expected at least {3 * LEAST}; cap the "
                "training examples (train_examples) so that some are left, or give it larger validation and test splits"
            )
        members = [own[i] for i in generator.permutation(len(own))[:count]]
        rest = pool[count:]
        # A shadow client should have as much to train on as the client that it stands for.
        reference = min(len(rest) // 2, references)
        shadow = rest[reference : reference + len(data.train)]
        found[name] = Candidates(tuple(members), tuple(pool[:count]), tuple(shadow), tuple(rest[:reference]), source)
        spare[name] = tuple(canaries)
    return found, spare


def _known_without_it(data: ClientData) -> list[Example]:
    """Return the training examples whose answer the client would know without them, as it knows a non-member's.

    An answer that occurs once is in the client's list only because of its example. With such examples, members would
    have more rare answers than non-members, and the groups would differ without any leak.
    """
    if data.task != "vqa":
        return list(data.train)
    counts = Counter(answer for example in data.train for answer in example.answers)
    return [example for example in data.train if any(counts[answer] > 1 for answer in example.answers)]


def _known(example: Example, data: ClientData) -> bool:
    """Return whether the client knows an answer of an example. An unknown answer alone would give a non-member away."""
    return data.task != "vqa" or any(answer in data.answers for answer in example.answers)


def _unused(config: RunConfig, clients: Mapping[str, ClientData], needed: int) -> dict[str, tuple[str, list[Example]]]:
    """Return for each client where its unused examples come from, and the examples."""
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
        if len(rest) >= 3 * LEAST:
            found[name] = how, rest
        else:
            found[name] = "validation and test questions", [*data.validation, *data.test]
    return found
