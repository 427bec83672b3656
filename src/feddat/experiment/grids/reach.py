"""How many examples the clients have, for studies over a number of examples: a cap does not make a client larger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feddat.benchmarks import is_generated
from feddat.config import ConfigError, RunConfig
from feddat.experiment.single.client_data import client_sizes
from feddat.report.tables import MARK

#: Setting that caps every client's examples -> the split, and the name of its examples in print.
CAPS = {
    "train_examples": ("train", "training examples"),
    "validation_examples": ("validation", "validation examples"),
    "test_examples": ("test", "test examples"),
}
#: Most clients that a note names; it counts the others.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Reach:
    """Which values of a cap the clients reach.

    Attributes:
        values: the values that at least one client reaches.
        short: value -> the clients that do not reach it, and their numbers of examples.
        notes: sentences about values that are left out, clients with fewer examples, and clients that are split.
    """

    values: tuple[Any, ...]
    short: Mapping[Any, Mapping[str, int]]
    notes: tuple[str, ...]


def find_reach(study: str, key: str, values: Sequence[Any], config: RunConfig) -> Reach:
    """Compare the values of a cap with the clients' own numbers of examples; this reads the data.

    Clients of generated benchmarks have as many examples as the cap says.

    Args:
        study: name of the study, for messages.
        key: key of :data:`CAPS`.
        values: values of the cap; those that are no numbers set none.
        config: settings of the study.

    Raises:
        ConfigError: no client reaches any of the values.
        BenchmarkError: the benchmark is unknown.
        DataError: data cannot be read.
    """
    split, what = CAPS[key]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    notes = []
    if split == "train" and config.split_clients > 1:
        notes.append(f"Each client's {what} are dealt out to {config.split_clients} clients (split_clients).")
    if not numbers or (config.benchmark is not None and is_generated(config.benchmark)):
        return Reach(tuple(values), {}, tuple(notes))
    sizes = client_sizes(config.updated({key: max(numbers)}), split)
    largest = max(sizes, key=lambda client: sizes[client])
    beyond = [value for value in numbers if value > sizes[largest]]
    said = f"no client has so many {what}; {largest} has the most, {sizes[largest]}"
    if len(beyond) == len(values):
        raise ConfigError(f"study {study}: {', '.join(map(str, beyond))}: {said}; give smaller values")
    if beyond:
        notes.append(f"Left out: {', '.join(map(str, beyond))} ({said}).")
    kept = tuple(value for value in values if value not in beyond)
    lacking = {v: {c: n for c, n in sizes.items() if n < v} for v in numbers if v not in beyond}
    short = {value: clients for value, clients in lacking.items() if clients}
    if short:
        notes.append(f"{MARK}: some clients have fewer {what} and use all of them: {_named(short[max(short)])}.")
    return Reach(kept, short, tuple(notes))


def _named(sizes: Mapping[str, int]) -> str:
    named = [f"{client} has {size}" for client, size in list(sizes.items())[:_NAMED]]
    more = len(sizes) - _NAMED
    return ", ".join(named) + (f", and {more} more" if more > 0 else "")
