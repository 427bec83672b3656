"""The upper reference: one adapter trained on all data in one place, with one head per client."""

from __future__ import annotations

from feddat.algorithms.base import Algorithm


class Central(Algorithm):
    """The global adapter trains on the task loss of every client; nothing travels."""

    name = "central"
    trains = ("global",)
    communicates = False
    centralised = True
    routes = ("global",)
