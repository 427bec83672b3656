"""Outages below a SuperLink: a full disk, a locked database, a helper process that has ended.

Flower's SuperLink answers 500 if its database cannot be written. After that answer, its nodes, its helper process and the
run's server give up. They repeat a request that was answered 503, so a short outage then costs only time.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from subprocess import Popen
from typing import Any, Protocol

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse
from feddat.one_line import one_line

log = logging.getLogger(__name__)

#: Errors of the disk that can pass.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM})
#: Seconds before an ended helper process is started again; also the time in which a shutdown is recognised as one.
_PAUSE = 3.0


class Outages:
    """ASGI middleware that answers 503 while the database or the disk below it fails, and logs each outage once."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._since: float | None = None
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; if the storage fails before a response begins, ask the client to try again."""
        begun = False

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            reason = storage_problem(error)
            if reason is None or begun or scope["type"] != "http":
                raise
            self._failed(reason)
            await refuse(send, 503, b"the server's storage fails; try again")
        else:
            if self._since is not None and scope["type"] == "http":
                self._works()

    def _failed(self, reason: str) -> None:
        self._requests += 1
        if self._since is None:
            self._since = time.monotonic()
            log.error("the database cannot be used: %s; clients repeat their requests until it can", reason)

    def _works(self) -> None:
        if (since := self._since) is not None:
            # The disk may have been too full for the first line.
            log.warning(
                "the database works again, after %.0f s in which %d requests failed",
                time.monotonic() - since,
                self._requests,
            )
        self._since, self._requests = None, 0


def storage_problem(error: BaseException) -> str | None:
    """Return the reason in one line if an error, or one that caused it, comes from the database or the disk."""
    for one in _chain(error):
        if isinstance(one, sqlite3.OperationalError) or (isinstance(one, OSError) and one.errno in _DISK):
            return one_line(str(one))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


class Lifespan(Protocol):
    """The part of Flower's ``SuperLinkLifespan`` that owns the process which starts runs."""

    superexec_process: Popen[bytes] | None


def keep_running(lifespan: Lifespan, start: Callable[[], None], pause: float = _PAUSE) -> threading.Thread:
    """Start the process that starts runs again whenever it ends, until the SuperLink shuts down.

    Args:
        lifespan: its owner, which sets the process to ``None`` at shutdown.
        start: starts the process anew.
        pause: seconds before it does.
    """

    def watch() -> None:
        while (process := lifespan.superexec_process) is not None:
            code = process.wait()
            time.sleep(pause)
            if lifespan.superexec_process is not process:
                return
            log.warning("the process that starts runs has ended (code %d); starting another", code)
            start()

    thread = threading.Thread(target=watch, daemon=True, name="keep-superexec")
    thread.start()
    return thread
