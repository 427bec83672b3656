"""Which examples make up which batch, in which order: a function of the seed, the names and the round alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feddat.seeding import torch_generator


def plan_batches(
    sizes: Mapping[str, int], epochs: int, batch_size: int, seed: int, turn: str | int
) -> list[tuple[str, Tensor]]:
    """Return the batches of one turn of training, as (member, indices into its training examples).

    In every epoch each example of each member occurs once; a member's last batch may be smaller. A batch holds one
    member's examples only. With several members their batches are shuffled together.

    Args:
        sizes: member name -> number of training examples.
        epochs: passes over all examples.
        batch_size: examples per batch.
        seed: the run's seed.
        turn: what tells this turn from others, usually the round.
    """
    generators = {name: torch_generator(seed, name, turn, "batches") for name in sizes}
    order = torch_generator(seed, *sizes, turn, "order")
    plan: list[tuple[str, Tensor]] = []
    for _ in range(epochs):
        epoch: list[tuple[str, Tensor]] = []
        for name, size in sizes.items():
            shuffled = torch.randperm(size, generator=generators[name])
            epoch += [(name, shuffled[start : start + batch_size]) for start in range(0, size, batch_size)]
        if len(sizes) > 1:
            epoch = [epoch[i] for i in torch.randperm(len(epoch), generator=order).tolist()]
        plan += epoch
    return plan
