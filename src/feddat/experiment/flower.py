"""The ServerApp and the ClientApp under the names by which Flower finds them (``[tool.flwr.app.components]``).

In Flower's simulation every node is given a number, and all data is on this machine. In a deployment a node is told its
client's name (``client``) and the file with that client's own settings (``data``), whose policy then decides what is
done for a server. Without such a file the data is where the run's configuration says, as on a machine that runs all
nodes, and there is no policy.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid

from feddat.app.client import Site, client_name, make_client_app
from feddat.app.polling import PollingGrid
from feddat.config import RunConfig
from feddat.experiment.app_config import from_flat
from feddat.experiment.federation import Federation, load_federation
from feddat.experiment.gate import ClientGate
from feddat.experiment.run import Experiment
from feddat.site import read_site

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
    )


def gate(context: Context) -> ClientGate | None:
    """Return the policy of the client that a node is; ``None`` where it has no file of its own."""
    file = context.node_config.get(SITE_KEY)
    return ClientGate(Path(str(file)), context.run_config) if file else None


def site(context: Context, run: str) -> Site:
    """Return the client that a node is; what is loaded for it stays for the next message.

    Raises:
        ConfigError: the node's configuration, its client's file and the run's configuration do not go together.
        PolicyError: the client's policy does not allow the run's settings.
        ModelError, DataError, StoreError: as :func:`feddat.experiment.federation.load_federation`.
    """
    if (own := gate(context)) is None:
        federation = _federation(json.dumps(dict(context.run_config), sort_keys=True))
        return federation.site(client_name(context, list(federation.participants)))
    here = read_site(own.file)
    return _own_federation(own.settings(here).model_dump_json(), here.store(run)).site(here.client)


client_app = make_client_app(site, gate)


@lru_cache(maxsize=1)
def _federation(settings: str) -> Federation:
    experiment = Experiment(from_flat(json.loads(settings)).run)
    return load_federation(experiment.settings, experiment.folder.clients)


@lru_cache(maxsize=1)
def _own_federation(settings: str, state: Path) -> Federation:
    return load_federation(RunConfig.model_validate_json(settings), state)
