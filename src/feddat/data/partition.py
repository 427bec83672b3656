"""Partition one client's training examples among several clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from feddat.example import ClientData, DataError
from feddat.seeding import numpy_generator


def split_clients(clients: Iterable[ClientData], parts: int, seed: int) -> tuple[ClientData, ...]:
    """Deal each client's training examples out to ``parts`` clients ``NAME-1``, ``NAME-2``, ...

    Every example goes to exactly one of them, drawn by ``seed`` and the client's name; their numbers differ by at most
    one. Every part keeps the whole validation and test split and all answers, so that scores remain comparable. With
    one part, the clients stay as they are.

    Raises:
        DataError: a client has fewer training examples than parts.
    """
    return tuple(clients) if parts == 1 else tuple(part for client in clients for part in _split(client, parts, seed))


def _split(client: ClientData, parts: int, seed: int) -> Iterator[ClientData]:
    if len(client.train) < parts:
        raise DataError(f"client {client.name}: cannot split {len(client.train)} training examples into {parts} parts")
    order = numpy_generator(seed, "split", client.name).permutation(len(client.train)).tolist()
    for part in range(parts):
        train = tuple(client.train[index] for index in sorted(order[part::parts]))
        left_out = {split: counts for split, counts in client.left_out.items() if split != "train"}
        yield replace(client, name=f"{client.name}-{part + 1}", train=train, left_out=left_out)
