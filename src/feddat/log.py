"""The log of a process: one JSON object per line, for `feddat status`, for other programs, and for grep.

A run's log is ``log.jsonl`` in its folder; a client in its own process has its own log.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event``, ``round`` and ``client`` (``null`` if there is none),
``message`` (the event as a sentence) and ``pid``; the event's own fields follow. Texts are single lines of bounded
length without terminal control sequences (:mod:`feddat.one_line`). Nothing is ever removed: a resumed run appends to
its log, beginning with another ``start``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feddat.json_lines import append
from feddat.one_line import LINE, one_line, plain

#: Loggers whose warnings are also events, so that logs and live displays have them already.
LOGGED_AS_EVENTS = ("feddat.app.intake", "feddat.app.strategy")
#: Fields of an event that each line has anyway, or that are too long for a line.
_NOT_FIELDS = frozenset({"event", "round", "client", "summary"})
_LEVELS = {"failed": "WARNING", "refused": "WARNING", "kept": "WARNING", "interrupted": "WARNING", "failure": "ERROR"}


class JsonLog(logging.Handler):
    """Write the events of one run, and the records of the package's own loggers, to a file.

    Each line is a separate write, so several processes can share the file. The first line, and one after a failed
    write, begin a new line if the last one is torn. A log record whose ``extra`` has an
    ``event`` (a dictionary as for :meth:`event`) becomes a line with that event.

    Args:
        path: the file; created with the first line.
        level: the lowest level of log records to write.
    """

    def __init__(self, path: Path, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self.path = path
        self._refused: int | None = None
        # Whether the file's last line can be torn: a full disk leaves such a line, here or in an earlier process.
        self._torn = True

    def event(self, event: Mapping[str, Any]) -> None:
        """Write an event of :class:`~feddat.experiment.single.events.Announcer`.

        Raises:
            OSError: the file cannot be written.
        """
        kind = event["event"]
        fields = {key: value for key, value in event.items() if key not in _NOT_FIELDS}
        if kind == "start":
            fields["host"] = socket.gethostname()
        self._write(_LEVELS.get(kind, "INFO"), kind, event.get("round"), event.get("client"), describe(event), fields)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record, unless an event already covers it."""
        if record.name in LOGGED_AS_EVENTS:
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
        """Warn once that the file cannot be written; the run continues without its log."""
        if self._refused == error.errno:
            return
        self._refused = error.errno
        with contextlib.suppress(OSError, ValueError):  # the terminal may be a file on the same disk
            sys.stderr.write(f"WARNING: log {self.path}: {error.strerror}; lines are lost until it can be written\n")
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
        mend, self._torn = self._torn, True
        append(self.path, [line], mend=mend)
        self._torn = False


def describe(event: Mapping[str, Any]) -> str:
    """Return an event as a sentence."""
    kind, client, round = event["event"], event.get("client"), event.get("round")
    if kind == "start":
        after = f", continues after round {round}" if round else ""
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
