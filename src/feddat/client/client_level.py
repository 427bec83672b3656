"""Differential privacy of whole clients, on the client's side: clip its update, and add its share of the noise.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018 (arXiv
1710.06963): what one client adds to the sum of a round has an L2 norm of at most C, whatever its training does. So the
local objective needs no argument of its own. Who adds the noise, and why it is enough: docs/privacy.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from feddat.client.budget import Budget
from feddat.client.store import PersonalStore
from feddat.config import ConfigError, RunConfig
from feddat.privacy.accounting import MissingAccountant, noise_for
from feddat.privacy.noise import NoiseSource
from feddat.privacy.norms import clipped

#: A multiplier is rounded up to a multiple of 1 / this, so that all machines find the same one.
_GRAIN = 1000


def planned_rounds(config: RunConfig) -> int:
    """Return the largest number of rounds that one client takes part in."""
    return min(config.rounds, config.privacy.participations or config.rounds)


def share_noise(config: RunConfig) -> float:
    """Return the noise multiplier of a run whose clients add the noise in shares: the same on every machine.

    Raises:
        ConfigError: no noise keeps the run within its budget.
    """
    return _noise(config, concentrated=True)


def server_noise(config: RunConfig) -> float:
    """Return the noise multiplier of a run whose server adds the noise.

    Raises:
        ConfigError: no noise keeps the run within its budget.
    """
    return _noise(config, concentrated=False)


def _noise(config: RunConfig, concentrated: bool) -> float:
    privacy = config.privacy
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    try:
        found = noise_for(privacy.epsilon or 0.0, privacy.delta, 1.0, 1, planned_rounds(config), concentrated)
    except (ValueError, MissingAccountant) as error:
        raise ConfigError(f"privacy: {error}") from None
    return math.ceil(found * _GRAIN) / _GRAIN


class NoiseShares:
    """One client's noise in the sums of a run, and what it pays for them.

    Args:
        config: the run, of unit client and with secure aggregation.
        store: where the client keeps what is its own.
    """

    def __init__(self, config: RunConfig, store: PersonalStore) -> None:
        self._client, self._seed = store.client, config.privacy.noise_seed
        self._budget, self._noise = Budget(store, config.privacy), share_noise(config)

    def check(self) -> None:
        """See to it that one more round is within the budget.

        Raises:
            BudgetError: it is not.
            StoreError: the ledger cannot be read or written.
        """
        self._budget.check_round(self._noise)

    def pay(self, round: int) -> NoiseSource:
        """Pay for a masked update that is about to leave; return the source of its rounding and noise.

        It is paid for now and not when the sum is opened: the others can open it without this client.

        Raises:
            BudgetError: the update would go beyond the budget; nothing is written.
            StoreError: the ledger cannot be read or written.
        """
        self._budget.spend_round(self._noise)
        return NoiseSource.secure() if self._seed is None else NoiseSource.seeded(self._seed, self._client, round)


def clipped_update(
    shared: Mapping[str, Tensor], received: Mapping[str, Tensor], config: RunConfig
) -> dict[str, Tensor]:
    """Return what a client sends: its trained adapter, or with privacy of clients one whose update is clipped to C."""
    if not config.privacy.of_clients:
        return dict(shared)
    return clipped(shared, {key: received[key] for key in shared}, config.privacy.clip)
