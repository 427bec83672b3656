"""Head only: every client trains its own head on the unchanged frozen model; nothing is communicated."""

from __future__ import annotations

from feddat.algorithms.base import Algorithm
from feddat.config import AlgorithmConfig


class Head(Algorithm):
    """The head trains on the task loss with all adapters off."""

    name = "head"
    trains = ()
    communicates = False
    routes = ("none",)
    trains_head_alone = True

    def passes(self, config: AlgorithmConfig) -> tuple[float, float]:
        """Return one forward pass."""
        return 1.0, 0.0
