"""The contents and order of training batches, which depend only on the seed, the names and the round."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.config import RunConfig
from feddat.seeding import torch_generator


def steps_of_round(config: RunConfig, examples: int) -> int:
    """Return the number of steps of a client's round, the same with and without privacy."""
    train = config.train
    return train.steps or train.epochs * math.ceil(examples / train.batch_size)


def plan_batches(
    sizes: Mapping[str, int],
    epochs: int,
    batch_size: int,
    seed: int,
    turn: str | int,
    steps: int | None = None,
    even: bool = False,
) -> list[tuple[str, Tensor]]:
    """Return the batches of one turn of training, as (member, indices into its training examples).

    Each epoch contains every example of every member once; a member's last batch can be smaller. A batch holds the
    examples of only one member. The batches of several members are shuffled together.

    Args:
        sizes: member name -> number of training examples.
        epochs: passes over all examples.
        batch_size: examples per batch.
        seed: the run's seed.
        turn: distinguishes this turn from others; usually the round.
        steps: number of batches of each member that has examples, in place of ``epochs``. Runs as many epochs as that
            takes and cuts the last one short.
        even: make the batches of an epoch equally large, up to one example, so that none is small.
    """
    generators = {name: torch_generator(seed, name, turn, "batches") for name in sizes}
    order = torch_generator(seed, *sizes, turn, "order")

    def epoch(name: str) -> list[tuple[str, Tensor]]:
        shuffled = torch.randperm(sizes[name], generator=generators[name])
        if even and sizes[name]:
            return [(name, part) for part in shuffled.tensor_split(math.ceil(sizes[name] / batch_size))]
        return [(name, shuffled[start : start + batch_size]) for start in range(0, sizes[name], batch_size)]

    def mixed(batches: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        if len(sizes) == 1:
            return batches
        return [batches[i] for i in torch.randperm(len(batches), generator=order).tolist()]

    if steps is None:
        return [batch for _ in range(epochs) for batch in mixed([b for name in sizes for b in epoch(name)])]
    plan: list[tuple[str, Tensor]] = []
    for name, size in sizes.items():
        passes = math.ceil(steps / math.ceil(size / batch_size)) if size else 0
        plan += [batch for _ in range(passes) for batch in epoch(name)][:steps]
    return mixed(plan)
