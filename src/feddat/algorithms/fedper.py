"""FedPer: the adapters of the lower layers are shared; those of the last layers and the head are personal.

Arivazhagan, Aggarwal, Singh, Choudhary: "Federated Learning with Personalization Layers", arXiv 1912.00818.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from feddat.adapters.sites import depths, in_last_layers
from feddat.algorithms.base import Algorithm
from feddat.config import ConfigError, RunConfig


class FedPer(Algorithm):
    """The adapter trains on the task loss; its last ``algorithm.personal_layers`` layers in each tower stay personal.

    Entries that belong to no layer travel.

    Args:
        personal: names of the entries that stay with the client.
    """

    name = "fedper"
    reads = ("personal_layers",)
    trains = ("global",)
    routes = ("global",)
    hides_gradients = True

    def __init__(self, personal: Collection[str] = ()) -> None:
        self._personal = frozenset(personal)

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> FedPer:
        """Return the algorithm that keeps the last layers of this run's adapter.

        Raises:
            ConfigError: the adapter has no layers, or nothing would be shared.
        """
        last = config.algorithm.personal_layers
        personal = in_last_layers(keys, last)
        if not personal:
            raise ConfigError(f"adapter.peft: fedper needs adapters in layers, and {config.adapter.peft} has none")
        if len(personal) == len(keys):
            layers = max(depths(keys).values())
            raise ConfigError(f"algorithm.personal_layers: {last} of {layers} layers leave nothing to share")
        return FedPer(personal)

    def shares(self, key: str) -> bool:
        """Return whether an entry is below the personal layers."""
        return key not in self._personal
