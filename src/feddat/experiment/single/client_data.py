"""The clients' data of a run: from a benchmark or from their own files, capped, and split among more clients."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from feddat.config import RunConfig
from feddat.data.partition import split_clients
from feddat.example import ClientData
from feddat.phases import phase
from feddat.seeding import numpy_generator


@phase("loading")
def load_clients(config: RunConfig) -> tuple[ClientData, ...]:
    """Return the clients' data, from the benchmark or their own files, each split among ``split_clients`` clients.

    Raises:
        BenchmarkError: the benchmark is unknown.
        DataError: own data cannot be read, or there is too little of it to split.
    """
    return split_clients(_whole_clients(config), config.split_clients, config.data_seed)


def _whole_clients(config: RunConfig) -> tuple[ClientData, ...]:
    if config.clients is not None:
        from feddat.data.readers import read_client

        clients = tuple(read_client(name, spec, config.pictures) for name, spec in config.clients.items())
    else:
        found = _load_benchmark(
            str(config.benchmark),
            config.data_seed,
            config.train_examples,
            config.test_examples,
            config.root,
            config.validation_examples,
            config.pictures.outside,
            tuple(sorted((config.revisions or {}).items())),
        )
        clients = tuple(replace(client, pictures=config.pictures) for client in found)
    return tuple(_kept(_capped(client, config), config) for client in clients)


def _kept(data: ClientData, config: RunConfig) -> ClientData:
    """Give a client a folder in ``data_cache``, unless it has its own."""
    if config.data_cache is None or data.encodings is not None:
        return data
    return replace(data, encodings=config.data_cache / data.name)


def _capped(data: ClientData, config: RunConfig) -> ClientData:
    """Draw at most ``train_examples``, ``validation_examples`` and ``test_examples``; keep all answers."""
    caps = {
        "train": config.train_examples,
        "validation": config.validation_examples or config.test_examples,
        "test": config.test_examples,
    }
    kept: dict[str, Any] = {}
    for split, cap in caps.items():
        examples = data.split(split)
        if cap is not None and cap < len(examples):
            order = numpy_generator(config.data_seed, "cap", data.name, split).permutation(len(examples))[:cap]
            kept[split] = tuple(examples[index] for index in sorted(order))
    return replace(data, **kept)


@lru_cache(maxsize=1)
def _load_benchmark(
    name: str,
    seed: int,
    train: int | None,
    test: int | None,
    root: Path | None,
    validation: int | None,
    outside: bool,
    revisions: tuple[tuple[str, str], ...],
) -> tuple[ClientData, ...]:
    from feddat.benchmarks import load_benchmark

    return load_benchmark(name, seed, train, test, root, validation, outside, dict(revisions)).clients
