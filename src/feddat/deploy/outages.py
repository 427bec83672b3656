"""Outages below a SuperLink: a full disk, a locked database, a helper process that has ended.

Flower's SuperLink answers 500 if its database cannot be written. After that answer, its nodes, its helper process and
the run's server give up. They repeat a request that was answered 503, so a short outage then costs only time.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from subprocess import Popen
from typing import Protocol, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from feddat.one_line import one_line

CallNext: TypeAlias = Callable[[Request], Awaitable[Response]]
Middleware: TypeAlias = Callable[[Request, CallNext], Awaitable[Response]]

log = logging.getLogger(__name__)

#: Errors of the disk that can pass.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM})
#: SQLite's primary result codes for conditions that can pass; a wrong statement or a missing table is not one.
_DATABASE = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM),
    }
)
#: Seconds before an ended helper process is started again; also the time in which a shutdown is recognised as one.
_PAUSE = 3.0


class Outages:
    """Answers 503 while the database or the disk below it fails, and logs each outage once.

    Flower turns every unknown error into 500 in an HTTP middleware of its own; this one stands inside it.

    Args:
        translate: Flower's middleware, ``flwr.supercore.error.http.http_error_translator``.
        quiet: seconds without a failure after which an outage is over; requests that only read may succeed during one.
    """

    def __init__(self, translate: Middleware, quiet: float = 10.0) -> None:
        self._translate, self._quiet = translate, quiet
        self._since: float | None = None
        self._last = 0.0
        self._requests = 0

    async def __call__(self, request: Request, call_next: CallNext) -> Response:
        """Pass a request on; if the storage fails, ask the client to try again."""

        async def guarded(request: Request) -> Response:
            try:
                response = await call_next(request)
            except Exception as error:
                if (reason := storage_problem(error)) is None:
                    raise
                self._failed(reason)
                return JSONResponse({"detail": "The server's storage fails; try again."}, 503)
            self._works()
            return response

        return await self._translate(request, guarded)

    def _failed(self, reason: str) -> None:
        self._requests += 1
        self._last = time.monotonic()
        if self._since is None:
            self._since = self._last
            log.error("the database cannot be used: %s; clients repeat their requests until it can", reason)

    def _works(self) -> None:
        if self._since is None or time.monotonic() - self._last < self._quiet:
            return
        # The disk may have been too full for the first line.
        log.warning(
            "the database works again; %d request(s) failed within %.0f s and were repeated",
            self._requests,
            self._last - self._since,
        )
        self._since, self._requests = None, 0


def storage_problem(error: BaseException) -> str | None:
    """Return the reason in one line if an error, or one that caused it, comes from the database or the disk."""
    for one in _chain(error):
        code = one.sqlite_errorcode & 0xFF if hasattr(one, "sqlite_errorcode") else None
        if code in _DATABASE or (isinstance(one, OSError) and one.errno in _DISK):
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
