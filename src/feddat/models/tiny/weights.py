"""Random weights that tell inputs apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feddat.models.weights import quiet

#: Standard deviation of matrices and embeddings. A fresh model's 0.02, and position embeddings that are all zero, would
#: leave the features of different questions and pictures almost alike.
STD = 0.1


def save_random(make: Callable[[], Any], seed: int, folder: Path) -> None:
    """Write the transformers model that ``make`` returns with weights from N(0, 0.1²), vectors as they start."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=STD)
        model.save_pretrained(folder)
