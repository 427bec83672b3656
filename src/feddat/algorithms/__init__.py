"""Local objectives, one file each."""

from __future__ import annotations

from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.central import Central
from feddat.algorithms.fedavg import FedAvg
from feddat.algorithms.feddat import FedDAT
from feddat.algorithms.head import Head
from feddat.algorithms.local import Local

#: Every algorithm by its name.
ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm for algorithm in (FedDAT(), FedAvg(), Local(), Central(), Head())
}

__all__ = ["ALGORITHMS", "Algorithm", "Learner", "RoundContext"]
