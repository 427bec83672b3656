"""The progress of runs as a local web page: `feddat dashboard`.

The page fetches only ``status.json``, every two seconds. The server listens only on 127.0.0.1 and answers only to that
name or ``localhost``, so a web site that points its own name at this address (DNS rebinding) can read nothing.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from feddat.example import DataError
from feddat.watching.progress import RunProgress, find_runs, read_progress

HOST = "127.0.0.1"
#: The dashboard reads a run again when one of these files changes.
_FILES = ("config.yaml", "log.jsonl", "metrics.jsonl", "summary.json")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Dashboard(ThreadingHTTPServer):
    """Serve the page, and the state of the runs in a folder.

    Args:
        runs: the folder.
        port: port on 127.0.0.1; 0 picks a free one.

    Raises:
        OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, runs: Path, port: int = 0) -> None:
        self.runs = runs
        self.page = (resources.files("feddat.watching") / "templates" / "dashboard.html").read_bytes()
        self._known: dict[Path, tuple[tuple[int, ...], RunProgress]] = {}
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Return the page's address."""
        return f"http://{HOST}:{self.server_port}/"

    def status(self) -> dict[str, Any]:
        """Return what the page shows: every run, and why other folders cannot be read."""
        now = time.time()
        runs, unreadable = [], []
        try:
            for folder in find_runs(self.runs):
                try:
                    runs.append(self._progress(folder, now).to_json())
                except DataError as error:
                    unreadable.append(str(error))
        except DataError as error:
            unreadable.append(str(error))
        return {"folder": str(self.runs), "now": now, "runs": runs, "unreadable": unreadable}

    def _progress(self, folder: Path, now: float) -> RunProgress:
        stamp = tuple(_changed(folder / name) for name in _FILES)
        known = self._known.get(folder)
        if known is None or known[0] != stamp or known[1].state == "running":
            known = self._known[folder] = stamp, read_progress(folder, now, self.runs)
        return known[1]


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard
    server_version = "feddat"
    sys_version = ""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 only")
        elif self.path == "/":
            self._send("text/html; charset=utf-8", self.server.page)
        elif self.path == "/status.json":
            self._send("application/json", json.dumps(self.server.status(), allow_nan=False).encode())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a page that asks every two seconds would fill the terminal."""


def _changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0
