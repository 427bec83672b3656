"""The server's side of a deployment: Flower's SuperLink, of which other machines see only what clients need.

Flower serves three interfaces at one address. Clients need one of them (the Fleet interface, which asks for their
keys); through the other two runs are started and nodes are registered, and they ask nobody who he is. They answer here
to this machine alone. Of what clients send, no body is read before its signature is found good (:mod:`.bodies`).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse
from feddat.deploy.processes import search_path

if TYPE_CHECKING:
    from feddat.deploy.folder import ServerFolder

log = logging.getLogger(__name__)

#: Paths that answer to other machines.
OPEN = ("/v1/fleet/", "/health")
#: Days before its end from which a server reminds of its certificate.
SOON_DAYS = 30


class OnlyFleetFromOutside:
    """ASGI middleware: requests of other machines for anything but :data:`OPEN` are answered with 403."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"].startswith(OPEN) or _is_local(scope.get("client")):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # Flower has none today; a later one's must not slip through
            await send({"type": "websocket.close"})
            return
        await refuse(send, 403, b"only on the server itself")


def _is_local(client: Sequence[Any] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def run_link(arguments: Sequence[str], server: ServerFolder | None = None) -> None:
    """Be a SuperLink until the process is ended.

    Args:
        arguments: of ``flower-superlink``.
        server: of the consortium whose clients are to be let in; default: nobody is.
    """
    from flwr.superlink import main
    from flwr.superlink.cli.flower_superlink import flower_superlink

    from feddat.deploy.bodies import BoundedBodies

    create = main.create_app

    def create_guarded(*args: Any, **kwargs: Any) -> Any:
        app = create(*args, **kwargs)

        def knows(key: bytes) -> bool:
            return app.state.linkstate_factory.state().get_node_id_by_public_key(key) is not None

        app.add_middleware(BoundedBodies, knows=knows if "--enable-supernode-auth" in arguments else None)
        app.add_middleware(OnlyFleetFromOutside)
        return app

    # Flower has a hook for middleware, but only for a package of its own.
    main.create_app = create_guarded
    sys.argv = ["flower-superlink", *arguments]
    os.environ["PATH"] = search_path(os.environ.get("PATH"))
    if server is not None:
        _look_after(server)
        os.environ.setdefault("FLWR_HOME", str(server.path / "state" / "flwr"))
        threading.Thread(target=_let_in, args=(server,), daemon=True).start()
    flower_superlink()


def _look_after(server: ServerFolder) -> None:
    """Close to others what lies there from before, warn of an authority's key, and take a renewed certificate up."""
    from feddat.deploy import pki
    from feddat.deploy.renewal import reloading
    from feddat.files import close_to_others

    try:
        close_to_others(server.path, below=False)
        for path in (server.path / "server.key", server.path / "state"):
            close_to_others(path)
    except OSError as error:
        log.warning("%s: others on this machine may read it: %s", error.filename, error.strerror)
    for path in (server.path / "ca.key", server.path.parent / "authority" / "ca.key"):
        if path.is_file():
            log.warning(
                "the authority's private key lies on this machine (%s): take it off; only renewals need it", path
            )
    until = pki.read_certificate(server.path / "server.crt").not_valid_after_utc
    if until < datetime.now(UTC) + timedelta(days=SOON_DAYS):
        log.warning("the server's certificate is good until %s: renew it (feddat deploy renew)", until.date())
    reloading(server.path / "server.crt", server.path / "server.key")


def _let_in(server: ServerFolder) -> None:
    """Let the clients' keys in, and take revoked ones out, as soon as the SuperLink answers."""
    from feddat.deploy.control import Control, let_in
    from feddat.deploy.errors import DeployError

    control = Control(server.local_address, server.authority)
    try:
        control.wait(60.0)
        for problem in let_in(control, server):
            log.warning("%s", problem)
    except DeployError as error:
        log.error("%s; the SuperLink ends", error)
        os._exit(2)
    finally:
        control.close()
