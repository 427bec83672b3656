"""Random weights with which different inputs get different features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feddat.models.weights import quiet

#: Standard deviation of matrices and embeddings. With the usual initialisation (0.02, and position embeddings of zero),
#: different questions and pictures would have almost the same features.
STD = 0.1


def save_random(make: Callable[[], Any], seed: int, folder: Path) -> None:
    """Write the transformers model from ``make`` with matrices drawn from N(0, 0.1²) and its initial vectors."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=STD)
        model.save_pretrained(folder)
