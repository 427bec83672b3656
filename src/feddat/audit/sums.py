"""What is seen of clients' updates under secure aggregation: their sum, rounded as the protocol rounds it.

Masks cancel in the sum to the last bit, so they are left out here; rounding, clipping and shares of noise do not
(:mod:`feddat.privacy.secure_sum`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from feddat.app.secure_strategy import sum_rules
from feddat.client.summing import flat
from feddat.config import RunConfig
from feddat.privacy.noise import NoiseSource
from feddat.privacy.secure_sum.fixed_point import levels, quantise
from feddat.privacy.secure_sum.shares_of_noise import noise_share, rounded
from feddat.privacy.secure_sum.terms import plan_of


def opened(updates: Sequence[Mapping[str, Tensor]], config: RunConfig) -> dict[str, Tensor]:
    """Return the sum of updates as whoever opens it sees it, by name, float32.

    Args:
        updates: of all clients in the sum, with the same names.
        config: the run's, with secure aggregation; with privacy of clients, each adds its share of the noise.

    Raises:
        SumError: the settings leave no room for a sum of so many clients.
    """
    rules, count = sum_rules(config), len(updates)
    vectors = [flat(update) for update in updates]
    plan = plan_of(rules, count, vectors[0].size)
    total = np.zeros(vectors[0].size, np.int64)
    if plan is None:
        most = levels(count, rules.bits)
        step = rules.clip / most
        for vector in vectors:
            total += quantise(vector, rules.clip, most)[0]
    else:
        step, seed = plan.step, config.privacy.noise_seed
        for place, vector in enumerate(vectors):
            source = NoiseSource.secure() if seed is None else NoiseSource.seeded(seed, str(place), 1)
            total += rounded(vector, plan, source) + noise_share(vector.size, plan, source)
    found, at = {}, 0
    for key in sorted(updates[0]):
        shape = updates[0][key].shape
        found[key] = torch.from_numpy((total[at : at + shape.numel()] * step).astype(np.float32)).reshape(shape)
        at += shape.numel()
    return found
