"""Differential privacy of whole clients, on the server's side: who can take part, and the noise of the mean.

Without secure aggregation the server sees every clipped update. It adds the noise once, to their sum, and only what
comes of that leaves it (McMahan et al., ICLR 2018, algorithm 1, with a fixed number of clients a round and no
amplification by sampling: who takes part follows from the run's seed, which is no secret). With secure aggregation the
clients add the noise, and the server only counts their rounds, so that it asks none in vain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feddat.algorithms.server import Gathered, ServerPart
from feddat.app.checkpoint import CheckpointError, Checkpoints
from feddat.app.messages import TrainReply
from feddat.app.roster import FederationError
from feddat.app.rules import MeanRule
from feddat.client.client_level import planned_rounds, server_noise, share_noise
from feddat.config import AlgorithmConfig, RunConfig
from feddat.privacy.accounting import Steps, steps_within
from feddat.privacy.noise import NoiseSource


class Participations:
    """How many rounds each client took part in, and how many it may.

    The count is written to a ledger beside the checkpoints before anything of a round leaves the server. It never goes
    back, whatever round the run is resumed from.

    Args:
        checkpoints: of the run.
        config: the run, of unit client.

    Raises:
        CheckpointError: the ledger was altered, is gone, or cannot be read.
        ConfigError: no noise keeps the run within its budget.
    """

    def __init__(self, checkpoints: Checkpoints, config: RunConfig) -> None:
        self._checkpoints, self._config = checkpoints, config
        shares, privacy = config.secure_aggregation.enabled, config.privacy
        self.noise = (share_noise if shares else server_noise)(config)
        within = steps_within(privacy.epsilon or 0.0, privacy.delta, 1.0, self.noise, 1, shares)
        #: The largest number of rounds of one client.
        self.most = min(within, planned_rounds(config))
        self.rounds: dict[str, int] = self._read()

    def may(self, client: str) -> bool:
        """Return whether a client can take part in one more round."""
        return self.rounds.get(client, 0) < self.most

    def check(self, candidates: int, needed: int) -> None:
        """See to it that enough clients have rounds left.

        Raises:
            FederationError: too few have.
        """
        if candidates < max(needed, 1):
            privacy = self._config.privacy
            raise FederationError(
                f"privacy: training stops: only {candidates} clients can take part in another round, expected at least "
                f"{max(needed, 1)}; each may in {self.most}, with noise multiplier {self.noise:.3g} within epsilon "
                f"{privacy.epsilon:g} (delta {privacy.delta:g}); everything up to here is kept"
            )

    def add(self, clients: Collection[str]) -> None:
        """Write down that these clients took part in one more round.

        Raises:
            CheckpointError: the disk refuses.
        """
        rounds = self.rounds | {client: self.rounds.get(client, 0) + 1 for client in clients}
        promised = self._config.privacy.model_dump(mode="json", include={"epsilon", "delta", "clip", "unit"})
        values: dict[str, Any] = promised | {"noise_multiplier": self.noise, "rounds": dict(sorted(rounds.items()))}
        self._checkpoints.write_ledger(values)
        self.rounds = rounds

    def spent(self, client: str) -> list[Steps]:
        """Return the rounds of a client as the accountant takes them."""
        shares = self._config.secure_aggregation.enabled
        return [Steps(1.0, self.noise, 1, self.rounds.get(client, 0), shares)]

    def _read(self) -> dict[str, int]:
        found = self._checkpoints.read_ledger()
        try:
            return {} if found is None else {str(client): int(rounds) for client, rounds in found["rounds"].items()}
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise CheckpointError(
                f"privacy: the ledger beside the checkpoints has no rounds of clients ({type(error).__name__}); start "
                "a new run"
            ) from None


class NoisyMean(MeanRule):
    """The mean of clipped updates with Gaussian noise, and what the algorithm's server part makes of it.

    Args:
        part, config: as of :class:`MeanRule`.
        norm: C, L2 norm that each update is clipped to once more, whatever its client and the wire format did.
        participations: of the run; paid before the noise is drawn.
        seed: of the noise, for tests; ``None``: the system draws it.
    """

    def __init__(
        self,
        part: ServerPart | None,
        config: AlgorithmConfig | None,
        norm: float,
        participations: Participations,
        seed: int | None = None,
    ) -> None:
        super().__init__(part, config)
        self.norm, self.participations, self._seed = norm, participations, seed

    def open(self, round: int, shared: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Begin with an empty sum."""
        self._round, self._names = round, list[str]()
        self._sum: dict[str, NDArray[np.float64]] = {key: np.zeros(value.shape) for key, value in shared.items()}
        return super().open(round, shared)

    def add(self, reply: TrainReply, weight: float, client: str = "") -> None:
        """Add one clipped update to the sum; its weight is 1, whatever is asked for."""
        moved = {key: reply.shared[key].astype(np.float64) - sent.numpy() for key, sent in self._sent.items()}
        found = float(np.sqrt(sum(float(np.vdot(part, part)) for part in moved.values())))
        if np.isfinite(found):
            factor = min(1.0, self.norm / found) if found else 1.0
            for key, part in moved.items():
                self._sum[key] += factor * part
        self._names.append(client)

    def close(self, clients: int) -> dict[str, Tensor]:
        """Pay, add the noise to the sum, and return the mean or what the server part makes of it."""
        replies = len(self._names)
        self.participations.add(self._names)
        source = NoiseSource.secure()
        if self._seed is not None:
            source = NoiseSource.seeded(self._seed, "server", self._round)
        shared: dict[str, Tensor] = {}
        for key in list(self._sum):
            total = torch.from_numpy(self._sum.pop(key))
            noise = source.normal(total.numel()).view(total.shape).mul_(self.participations.noise * self.norm)
            shared[key] = (self._sent[key].double() + (total + noise) / replies).float()
        gathered = Gathered(shared, {}, replies, clients)
        self.state, new = self._part.finish(self.state, self._sent, gathered, self._config)
        return new
