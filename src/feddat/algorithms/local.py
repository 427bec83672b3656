"""Local-only adapters: every client trains its own; nothing is communicated."""

from __future__ import annotations

from feddat.algorithms.base import Algorithm


class Local(Algorithm):
    """The local adapter trains on the task loss and never travels."""

    name = "local"
    trains = ("local",)
    keeps = ("local", "anchor")
    communicates = False
    routes = ("local",)
