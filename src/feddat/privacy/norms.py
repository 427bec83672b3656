"""L2 norms of sets of tensors, and updates that are clipped to one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def clipped(values: Mapping[str, Tensor], base: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Return ``base`` moved towards ``values``, by an update whose L2 norm over all tensors is at most ``norm``.

    Args:
        values: float tensors of the same keys and shapes as ``base``; where any number is NaN or infinite, the update
            is 0, so that its client says nothing.
        base: what the update is measured from.
        norm: the largest norm.

    Returns:
        Tensors of the dtypes of ``base``. Rounding them can put the norm above the limit in the last digit.
    """
    moved = {key: value.detach().double() - base[key].to(value.device).double() for key, value in values.items()}
    found = math.sqrt(sum(float(part.square().sum()) for part in moved.values()))
    if not math.isfinite(found):
        return {key: value.detach().clone() for key, value in base.items()}
    factor = min(1.0, norm / found) if found else 1.0
    if factor == 1.0:
        return {key: value.detach().to(base[key].dtype) for key, value in values.items()}
    return {
        key: (base[key].to(part.device).double() + factor * part).to(base[key].dtype) for key, part in moved.items()
    }
