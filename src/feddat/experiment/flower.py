"""The ServerApp and the ClientApp under the names by which Flower finds them (``[tool.flwr.app.components]``).

In Flower's simulation every node is given a number, and all data is on this machine. In a deployment a node is told its
client's name (``client``) and the file with that client's own settings (``data``); without such a file, the data is
where the run's configuration says, as on a machine that runs all nodes.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid

from feddat.app.client import Site, client_name, make_client_app
from feddat.app.polling import PollingGrid
from feddat.client.data_notes import sentence
from feddat.experiment.app_config import from_flat
from feddat.experiment.federation import Federation, check_sites, load_federation
from feddat.experiment.run import Experiment
from feddat.experiment.world import check_client
from feddat.site import read_site

log = logging.getLogger(__name__)

#: The key of a node's configuration that names its client's file.
SITE_KEY = "data"

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve the run that Flower's run configuration describes."""
    config = from_flat(context.run_config)
    experiment = Experiment(config.run)
    experiment.serve(
        PollingGrid(grid),
        resume=config.resume,
        overwrite=config.overwrite,
        clients_here=isinstance(grid, InMemoryGrid),
        accept_changes=config.accept_changes,
    )


def site(context: Context, run: str) -> Site:
    """Return the client that a node is; what is loaded for it stays for the next message.

    Raises:
        ConfigError: the node's configuration, its client's file and the run's configuration do not go together.
        ModelError, DataError, StoreError: as :func:`feddat.experiment.federation.load_federation`.
    """
    settings = json.dumps(dict(context.run_config), sort_keys=True)
    file = context.node_config.get(SITE_KEY)
    federation, checked = _federation(settings, str(file) if file else None, run)
    name = client_name(context, list(federation.participants))
    if name not in checked and name in federation.participants:
        check_client(federation.participants[name], _accepts(context))
        checked.add(name)
    return federation.site(name)


def _accepts(context: Context) -> bool:
    """Return whether a client goes on with data that was exchanged: its own file says so, or without one the run."""
    file = context.node_config.get(SITE_KEY)
    return read_site(Path(str(file))).accept_changes if file else from_flat(context.run_config).accept_changes


client_app = make_client_app(site)


@lru_cache(maxsize=1)
def _federation(settings: str, file: str | None, run: str) -> tuple[Federation, set[str]]:
    """Return the clients that this process may be, and the names of those whose data has been checked: none yet."""
    config = from_flat(json.loads(settings))
    experiment = Experiment(config.run)
    run_settings = experiment.settings
    if config.accept_changes:  # the hash that the run noted may be of other weights than the server's
        run_settings = run_settings.model_copy(update={"model_weights": None})
    if file is None:
        federation = load_federation(run_settings, experiment.folder.clients)
    else:
        own = read_site(Path(file))
        federation = load_federation(own.applied(run_settings), own.store(run))
        for name, splits in federation.notes.items():  # in this client's own log: no message holds them
            for split, found in splits.items():
                log.warning("%s", sentence(name, split, found), extra={"event": {"event": "data", "client": name}})
    check_sites(federation, others=file is not None)
    return federation, set()
