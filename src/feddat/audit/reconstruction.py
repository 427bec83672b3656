"""What can be rebuilt from one message, by number of examples and steps, and by kind of client.

The server of these attacks is dishonest. A client that obeys takes whatever settings, model and adapter it chooses.
One with the default policy (docs/security.md) refuses settings that give its data away; the attacks keep within what
it accepts. A client of the run has the run's own settings: its privacy, its batches and steps, its optimizer and its
secure sums. There the server chooses nothing but the adapter that it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from feddat.audit import imprint, matching, sentences, words
from feddat.audit.candidates import Candidates
from feddat.audit.errors import AuditError
from feddat.audit.membership import Say
from feddat.audit.message import Kind, Target
from feddat.config import RunConfig
from feddat.example import ClientData

#: Key of the results -> kind of client.
KINDS: dict[str, Kind] = {"without_policy": "obeys", "with_policy": "policy", "this_run": "run"}
#: Examples per step, and steps, of messages from a client that obeys.
OBEYED = ((1, 1), (8, 1), (32, 1), (128, 1), (8, 4))
#: The same for gradient matching, which suits small batches.
MATCHED = ((1, 1), (2, 1), (8, 1), (1, 4), (2, 4), (8, 4))
#: The fewest that the default policy accepts.
LEAST = (8, 8)


def reconstruct(
    config: RunConfig,
    clients: Mapping[str, ClientData],
    candidates: Mapping[str, Candidates],
    iterations: int,
    folder: Path,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Return for each kind of client: attack -> what came out of one message, for JSON.

    The client is the first whose task is questions. ``recovered`` counts patches of pictures, distinct words,
    whole questions, or, by matching, pictures; ``refused`` says why the client did not take part.

    Args:
        config: the run's.
        clients: their data.
        candidates: by client; the shadow examples are the attacker's own.
        iterations: steps of gradient matching; 0: it is left out.
        folder: for the clients' states.
        say: receives progress.

    Raises:
        AuditError: no client has questions with answers, or the attacks are not made for the model.
    """
    data = next((one for one in clients.values() if one.task == "vqa"), None)
    if data is None:
        raise AuditError("reconstruction: no client has task vqa; use --no-reconstruction")
    others = [one for one in clients.values() if one.name != data.name]
    target = Target(config, (data, *others), tuple(candidates[data.name].shadow))
    attacks: dict[str, Callable[..., dict[str, Any]]] = {
        "patches": partial(imprint.attack, target),
        "words-rows": partial(words.by_rows, target),
        "words-span": partial(words.by_span, target),
        "sentences": partial(sentences.attack, target),
    }
    sizes: dict[str, tuple[tuple[int, int], ...]] = dict.fromkeys(attacks, OBEYED)
    if iterations:
        for name, told in (("matching", False), ("matching-told", True)):
            attacks[name], sizes[name] = partial(matching.attack, target, iterations, told), MATCHED
    planned: list[tuple[str, str, tuple[int, int]]] = [
        *(
            ("without_policy", name, size)
            for name in attacks
            for size in sizes[name]
            if size[0] * size[1] <= len(data.train)
        ),
        *(("with_policy", name, LEAST) for name in attacks),
        *(("this_run", name, (0, 0)) for name in attacks),
    ]
    found: dict[str, dict[str, Any]] = {key: {} for key in KINDS}
    for done, (kind, name, size) in enumerate(planned):
        say("reconstruction", done, len(planned))
        place = folder / f"{kind}-{done}"
        found[kind][_key(name, size)] = attacks[name](*size, KINDS[kind], place)
    return found


def _key(name: str, size: Sequence[int]) -> str:
    return f"{name}, {size[0]} x {size[1]}" if size[0] else f"{name}, this run"
