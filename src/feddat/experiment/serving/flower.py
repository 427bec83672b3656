"""The ServerApp and the ClientApp under the names by which Flower finds them (``[tool.flwr.app.components]``).

In Flower's simulation, every node has a number, and all data is on this machine. In a deployment, the node
configuration names the client (``client``) and the file with its own settings (``data``), whose policy decides what the
client does for a server. Without such a file, as on a machine that runs all nodes, the run's configuration names the
data, and there is no policy.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid

from feddat.app.client import Site, client_name, make_client_app
from feddat.app.grid import SITE_KEY
from feddat.app.policy import PolicyError
from feddat.app.polling import PollingGrid
from feddat.client.data_notes import sentence
from feddat.config import RunConfig
from feddat.experiment.serving.app_config import from_flat
from feddat.experiment.serving.gate import ClientGate
from feddat.experiment.single.federation import Federation, check_sites, load_federation
from feddat.experiment.single.run import Experiment
from feddat.experiment.single.world import check_client
from feddat.privacy.secure_sum.identity import Identity
from feddat.site import read_site

log = logging.getLogger(__name__)

#: Key of a node's configuration: the folder with its key and certificate.
KEYS_KEY = "keys"

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


def gate(context: Context) -> ClientGate | None:
    """Return the policy of a node's client; ``None`` if the client has no file of its own."""
    file = context.node_config.get(SITE_KEY)
    return ClientGate(Path(str(file)), context.run_config) if file else None


def site(context: Context, run: str) -> Site:
    """Return a node's client; whatever is loaded for it is kept for the next message.

    Raises:
        ConfigError: the node's configuration, its client's file and the run's configuration contradict each other.
        PolicyError: the client's policy does not allow the run's settings.
        ModelError, DataError, StoreError: as :func:`feddat.experiment.single.federation.load_federation`.
    """
    if (own := gate(context)) is not None:
        here = read_site(own.file)
        settings = own.settings(here)
        if here.policy.secure_aggregation == "required" and not context.node_config.get(KEYS_KEY):
            raise PolicyError("policy.secure_aggregation: required, but this node has no keys to identify clients by")
        federation = _own_federation(settings.model_dump_json(), here.store(run), here.seal_key(run))
        found = federation.site(here.client, identity(context, settings, here.client))
        return replace(found, refuses_old_state=here.old_state == "refuse", hides_costs=True)
    federation, checked = _federation(json.dumps(dict(context.run_config), sort_keys=True))
    name = client_name(context, list(federation.participants))
    if name not in checked and name in federation.participants:
        check_client(federation.participants[name], from_flat(context.run_config).accept_changes)
        checked.add(name)
    return federation.site(name, identity(context, federation.foundation.config, name))


def identity(context: Context, settings: RunConfig, client: str) -> Identity | None:
    """Return a client's identity, with which others in a secure sum verify it; ``None`` if its node has no keys.

    Raises:
        IdentityError: the certificate is missing or cannot be used.
    """
    folder = context.node_config.get(KEYS_KEY)
    if not settings.secure_aggregation.enabled or not folder:
        return None
    return Identity.read(Path(str(folder)), client)


client_app = make_client_app(site, gate)


@lru_cache(maxsize=1)
def _federation(settings: str) -> tuple[Federation, set[str]]:
    """Return the clients that this process can act as, and an empty set for the names of checked ones."""
    config = from_flat(json.loads(settings))
    experiment = Experiment(config.run)
    run_settings = experiment.settings
    if config.accept_changes:  # the recorded hash may be that of other weights than the server's
        run_settings = run_settings.model_copy(update={"model_weights": None})
    federation = load_federation(run_settings, experiment.folder.clients)
    check_sites(federation)
    return federation, set()


@lru_cache(maxsize=1)
def _own_federation(settings: str, state: Path, seal_key: Path) -> Federation:
    """Return the federation of one client with its own file; its gate checks whether its data has changed."""
    federation = load_federation(RunConfig.model_validate_json(settings), state, seal_key)
    for name, splits in federation.notes.items():  # only in this client's own log, never in messages
        for split, found in splits.items():
            log.warning("%s", sentence(name, split, found), extra={"event": {"event": "data", "client": name}})
    check_sites(federation, others=True)
    return federation
