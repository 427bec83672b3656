"""FedAvg with one adapter per client and personal heads (McMahan et al., AISTATS 2017, arXiv 1602.05629)."""

from __future__ import annotations

from feddat.algorithms.base import Algorithm


class FedAvg(Algorithm):
    """The global adapter trains on the task loss and travels."""

    name = "fedavg"
    trains = ("global",)
    routes = ("global",)
    hides_gradients = True
