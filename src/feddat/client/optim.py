"""The optimizer and the learning-rate schedule of a round (docs/method/feddat.md, "One round", step 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from feddat.client.guarded import Guard, GuardedAdamW
from feddat.config import Schedule, TrainConfig

#: Key of a parameter group: the factor on its learning rate.
FACTOR = "factor"


def build_optimizer(
    adapters: Iterable[nn.Parameter],
    config: TrainConfig,
    heads: Iterable[nn.Parameter] = (),
    head_factor: float = 1.0,
    guard: Guard | None = None,
) -> torch.optim.AdamW:
    """Return a new AdamW; biases and LayerNorm parameters (1-D) get no weight decay.

    A step changes neither the parameters without gradient nor their moments.

    Args:
        adapters: parameters that train at the learning rate itself.
        config: the optimizer's settings.
        heads: parameters that train at ``head_factor`` times the learning rate.
        head_factor: factor on the heads' learning rate; 0 freezes the heads.
        guard: what guarded steps protect; ``None``: all steps are plain.
    """
    groups: list[dict[str, Any]] = []
    for parameters, factor in ((adapters, 1.0), (heads, head_factor)):
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in parameters:
            (plain if parameter.ndim <= 1 else decayed).append(parameter)
        groups += [
            {"params": decayed, "weight_decay": config.weight_decay, FACTOR: factor},
            {"params": plain, "weight_decay": 0.0, FACTOR: factor},
        ]
    groups = [group for group in groups if group["params"]]
    if guard is not None:
        return GuardedAdamW(groups, guard, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def schedule(step: int, steps: int, warmup: float, shape: Schedule = "linear") -> float:
    """Return the factor on the learning rate at ``step`` (0-based) of ``steps``.

    The factor rises linearly over the first ``warmup`` share of the steps and reaches 1. Then it stays constant, or
    falls along a line or half a cosine. The fall would reach 0 one step after the last, so every step has an effect.
    """
    rising = int(warmup * steps)
    left = (steps - step) / max(1, steps - rising)
    falling = {"linear": left, "cosine": (1 - math.cos(math.pi * min(1.0, left))) / 2, "constant": 1.0}[shape]
    return min((step + 1) / (rising + 1), falling)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group: ``lr`` times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(FACTOR, 1.0)
