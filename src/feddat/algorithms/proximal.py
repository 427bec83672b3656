"""Distance between two adapters, for proximal terms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def squared_distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Return ‖one − other‖² over all entries, a scalar; both have the same keys and shapes."""
    return torch.stack([(value - other[key]).square().sum() for key, value in one.items()]).sum()
