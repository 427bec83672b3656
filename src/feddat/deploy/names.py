"""The names under which Flower finds the apps, and the settings that keep Flower quiet. Imports nothing heavy."""

from __future__ import annotations

import os

#: ``module:attribute`` of the two apps, the same for every run.
SERVER_APP = "feddat.experiment.serving.flower:server_app"
CLIENT_APP = "feddat.experiment.serving.flower:client_app"

#: Environment that turns off Flower's telemetry and update check, and keeps it from installing packages for a run.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def quiet_flower() -> None:
    """Set :data:`QUIET` for this process and those it starts, except for variables that the user has set."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
