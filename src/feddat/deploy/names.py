"""Under what names Flower finds the apps, and how it is kept quiet; nothing heavy is imported for it."""

from __future__ import annotations

import os

#: ``module:attribute`` of the two apps, the same for every run.
SERVER_APP = "feddat.experiment.serving.flower:server_app"
CLIENT_APP = "feddat.experiment.serving.flower:client_app"

#: Nobody outside is told that Flower is used, and nothing is installed when a run starts.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def quiet_flower() -> None:
    """Set :data:`QUIET` for this process and those it starts, unless the user has said otherwise."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
