"""The log of a process: one JSON object a line, for `feddat status`, for other programs, and for grep.

That of a run is ``log.jsonl`` in its folder; a client that is a process of its own has its own.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``round`` and ``client`` (``null`` where there is none),
``message`` (the same for people, in one line) and ``pid``; an event's own fields follow. Texts are one line of bounded
length, and hold nothing that a terminal obeys (:mod:`feddat.one_line`). Nothing is ever taken out: a resumed run goes
on below what it wrote before, with another ``start``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feddat.one_line import LINE, one_line, plain

#: What the log says by itself, or that is too long for a line.
_NOT_FIELDS = frozenset({"event", "round", "client", "summary"})
_LEVELS = {"failed": "WARNING", "refused": "WARNING", "kept": "WARNING", "interrupted": "WARNING", "failure": "ERROR"}


class JsonLog(logging.Handler):
    """Write the events of one run, and what the package's own loggers say, to a file.

    Each line is written at once and alone, so that processes may share the file. A record whose ``extra`` has an
    ``event`` (a dictionary as :meth:`event` takes it) becomes a line of that event.

    Args:
        path: the file; made when the first line is written.
        level: of the least that is written of what loggers say.
    """

    def __init__(self, path: Path, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self.path = path
        self._refused: int | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        """Write an event of :class:`~feddat.experiment.single.events.Announcer`.

        Raises:
            OSError: the disk refuses.
        """
        kind = event["event"]
        fields = {key: value for key, value in event.items() if key not in _NOT_FIELDS}
        if kind == "start":
            fields["host"] = socket.gethostname()
        self._write(_LEVELS.get(kind, "INFO"), kind, event.get("round"), event.get("client"), describe(event), fields)

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a logger said, unless it is an event already."""
        if record.name == "feddat.app.strategy":
            return
        event: Mapping[str, Any] = getattr(record, "event", {})
        kind, round, client = event.get("event", "log"), event.get("round"), event.get("client")
        fields = {k: v for k, v in event.items() if k not in _NOT_FIELDS} or {"logger": record.name}
        try:
            self._write(record.levelname, kind, round, client, record.getMessage(), fields)
            self._refused = None
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        """Say once that the disk takes no more lines: what the log is about goes on without it."""
        if self._refused == error.errno:
            return
        self._refused = error.errno
        with contextlib.suppress(OSError, ValueError):  # the terminal may be a file on the same disk
            sys.stderr.write(f"WARNING: log {self.path}: {error.strerror}; its lines are lost until there is room\n")
            sys.stderr.flush()

    def _write(
        self,
        level: str,
        event: str,
        round: int | None,
        client: str | None,
        message: str,
        fields: Mapping[str, Any],
    ) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": level, "event": event, "round": round, "client": plain(client)}
        line |= {"message": one_line(message, LINE), "pid": os.getpid(), **{k: plain(v) for k, v in fields.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def describe(event: Mapping[str, Any]) -> str:
    """Return an event as a sentence."""
    kind, client, round = event["event"], event.get("client"), event.get("round")
    if kind == "start":
        after = f", goes on after round {round}" if round else ""
        return f"run {event['name']}: {event['method']} with {', '.join(event['clients'])}{after}"
    if kind == "asked":
        return f"round {round}: {', '.join(event['clients'])} asked to {event['kind']}"
    if kind == "fit":
        loss = event["metrics"].get("loss")
        return f"round {round}: {client} has trained" + ("" if loss is None else f", loss {loss:.3f}")
    if kind == "eval":
        scores = ", ".join(f"{route} {score:.1f} %" for route, score in event["scores"].items())
        without = "no examples" if event.get("examples") == 0 else "scores not shared"
        return f"round {round}: {client} on {event['split']}: {scores or without}"
    if kind in ("failed", "refused"):
        return f"round {round}: client {client} {kind} ({event['kind']}): {event['reason']}"
    if kind == "kept":
        return f"round {round}: the global adapter stays as it was: {event['reason']}"
    if kind == "round":
        return f"round {round} of {event['rounds']} is done"
    if kind == "done":
        return "all rounds are done"
    return str(event.get("reason", kind))
