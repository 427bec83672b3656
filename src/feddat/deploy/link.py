"""The server's side of a deployment: Flower's SuperLink, of which other machines reach only what clients need.

Flower serves three interfaces at one address. Clients need one of them, the Fleet interface, which checks their keys.
The other two start runs and register nodes, and they authenticate nobody. Here they answer only to this machine. The
body of a client's request is read only after its signature has been verified (:mod:`.bodies`).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse
from feddat.deploy.errors import DeployError
from feddat.deploy.processes import search_path
from feddat.files import locked, secret

if TYPE_CHECKING:
    from feddat.deploy.folder import ServerFolder

log = logging.getLogger(__name__)

#: Paths that answer to other machines.
OPEN = ("/v1/fleet/", "/health")
#: A server warns this many days before its certificate expires.
SOON_DAYS = 30


class OnlyFleetFromOutside:
    """ASGI middleware that answers 403 to other machines' requests for anything except :data:`OPEN`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or scope["path"].startswith(OPEN) or _is_local(scope.get("client")):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # Flower has no web sockets today; those of a later version must not pass
            await send({"type": "websocket.close"})
            return
        await refuse(send, 403, b"only on the server itself")


def _is_local(client: Sequence[Any] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def run_link(arguments: Sequence[str], server: ServerFolder | None = None) -> None:
    """Run a SuperLink until the process ends.

    Args:
        arguments: arguments of ``flower-superlink``.
        server: folder of the consortium whose clients to admit; default: admit nobody.
    """
    import uvicorn
    from flwr.superlink import main

    from feddat.deploy.bodies import BoundedBodies
    from feddat.deploy.outages import Outages, keep_running
    from feddat.deploy.patience import ImpatientProtocol
    from feddat.deploy.tokens import CONTROL_FILE, TASKS_FILE, OnlyWithToken

    cli = import_module("flwr.superlink.cli.flower_superlink")  # its package has a function of this name
    if server is not None:
        os.environ.setdefault("FLWR_HOME", str(server.path / "state" / "flwr"))
    private = _private_folder(arguments)
    token, tasks = secret(private / CONTROL_FILE), secret(private / TASKS_FILE)
    create, command = main.create_app, vars(cli)["_get_superexec_command"]
    lifespan = cli.SuperLinkLifespan
    start_superexec = lifespan._start_superexec_if_needed

    def create_guarded(*args: Any, **kwargs: Any) -> Any:
        app = create(*args, **kwargs)

        def knows(key: bytes) -> bool:
            return app.state.linkstate_factory.state().get_node_id_by_public_key(key) is not None

        # Flower uses this secret for tasks of other machines, but not for those of its own processes.
        app.state.superexec_auth_secret = tasks
        app.add_middleware(OnlyWithToken, token=token)
        app.add_middleware(BoundedBodies, knows=knows if "--enable-supernode-auth" in arguments else None)
        app.add_middleware(OnlyFleetFromOutside)
        return app

    def start_and_keep(self: Any) -> None:
        start_superexec(self)
        if self.superexec_process is not None:
            keep_running(self, partial(start_superexec, self))

    lifespan._start_superexec_if_needed = start_and_keep
    # Flower's hook for middleware works only for one of its own packages.
    main.create_app = create_guarded
    vars(main)["http_error_translator"] = Outages(vars(main)["http_error_translator"])
    vars(cli)["_get_superexec_command"] = lambda *args, **kwargs: [
        *command(*args, **kwargs),
        *("--superexec-auth-secret-file", str(private / TASKS_FILE)),
    ]
    vars(uvicorn)["run"] = partial(uvicorn.run, http=ImpatientProtocol)
    sys.argv = ["flower-superlink", *arguments]
    os.environ["PATH"] = search_path(os.environ.get("PATH"))
    with _alone(private):
        _settle_database(arguments)
        if server is not None:
            _look_after(server)
            threading.Thread(target=_let_in, args=(server,), daemon=True).start()
        cli.flower_superlink()


def _private_folder(arguments: Sequence[str]) -> Path:
    """Return the folder of a SuperLink's secrets: the one of its database, or Flower's own."""
    database = _database(arguments)
    return Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") if database is None else database.parent


def _database(arguments: Sequence[str]) -> Path | None:
    if "--database" not in arguments:
        return None
    named = arguments[list(arguments).index("--database") + 1]
    return None if "://" in named or named == ":memory:" else Path(named)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other SuperLinks out of a state folder.

    Raises:
        DeployError: another SuperLink uses it, or it cannot be locked.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError:
            raise DeployError(f"state folder {folder}: another server is using it; stop that one first") from None
        except OSError as error:
            raise DeployError(f"state folder {folder}: {error.strerror or error}") from None
        yield


def _settle_database(arguments: Sequence[str]) -> None:
    """Move a damaged database aside: Flower would stop because of it, and its contents are not needed again.

    Raises:
        DeployError: it cannot be moved.
    """
    path = _database(arguments)
    if path is None or not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found == "ok":
            return
        reason = " ".join(str(found).split())
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            return  # a problem with the disk or with access, which Flower reports
        reason = str(error)
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    try:
        for end in ("-wal", "-shm", "-journal", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    except OSError as error:
        raise DeployError(f"{path}: {reason}, and it cannot be moved aside: {error.strerror or error}") from None
    log.warning("%s: %s; moved aside as %s. Runs are kept in their folders: resume them", path, reason, aside.name)


def _look_after(server: ServerFolder) -> None:
    """Restrict access to the server's files, warn about an authority's key or an expiring certificate.

    Load a renewed certificate without a restart.
    """
    from feddat.deploy import pki
    from feddat.deploy.renewal import reloading
    from feddat.files import close_to_others

    try:
        close_to_others(server.path, below=False)
        for path in (server.path / "server.key", server.path / "state"):
            close_to_others(path)
    except OSError as error:
        log.warning("%s: other accounts on this machine may be able to read it: %s", error.filename, error.strerror)
    for path in (server.path / "ca.key", server.path.parent / "authority" / "ca.key"):
        if path.is_file():
            log.warning("the authority's private key is on this machine (%s): remove it; only renewals need it", path)
    until = pki.read_certificate(server.path / "server.crt").not_valid_after_utc
    if until < datetime.now(UTC) + timedelta(days=SOON_DAYS):
        log.warning("the server's certificate is valid until %s: renew it (feddat deploy renew)", until.date())
    reloading(server.path / "server.crt", server.path / "server.key")


def _let_in(server: ServerFolder) -> None:
    """Admit the clients' keys, and remove revoked ones, as soon as the SuperLink answers."""
    from feddat.deploy.control import Control, let_in

    control = Control(server.local_address, server.authority)
    try:
        control.wait(60.0)
        for problem in let_in(control, server):
            log.warning("%s", problem)
    except (DeployError, OSError) as error:
        log.error("%s; stopping the SuperLink", error)
        os._exit(2)
    finally:
        control.close()
