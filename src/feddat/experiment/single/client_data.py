"""The clients' data of a run: from a benchmark or from their own files, capped, and split among more clients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig
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
        ConfigError: ``only_clients`` names an unknown client.
    """
    return split_clients(_whole_clients(config), config.split_clients, config.data_seed)


@phase("loading")
def client_sizes(config: RunConfig, split: str) -> dict[str, int]:
    """Return each client's number of examples in a split, before it is divided among ``split_clients`` clients.

    Raises:
        BenchmarkError: the benchmark is unknown.
        DataError: own data cannot be read.
        ConfigError: ``only_clients`` names an unknown client.
    """
    return {client.name: len(client.split(split)) for client in _whole_clients(config)}


def _whole_clients(config: RunConfig) -> tuple[ClientData, ...]:
    if config.clients is not None:
        from feddat.data.readers import read_client

        names = chosen_clients(config, config.clients)
        clients = tuple(read_client(name, config.clients[name], config.pictures) for name in names)
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
        names = chosen_clients(config, [client.name for client in found])
        clients = tuple(replace(client, pictures=config.pictures) for client in found if client.name in names)
    return tuple(_kept(_capped(client, config), config) for client in clients)


def chosen_clients(config: RunConfig, names: Iterable[str]) -> list[str]:
    """Return the names of the clients that take part (``only_clients``), in the order of ``names``.

    Raises:
        ConfigError: ``only_clients`` names an unknown client.
    """
    names = list(names)
    if config.only_clients is None:
        return names
    if unknown := [name for name in config.only_clients if name not in names]:
        raise ConfigError(f"only_clients: {unknown[0]!r} is unknown; the clients are {', '.join(names)}")
    return [name for name in names if name in config.only_clients]


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
