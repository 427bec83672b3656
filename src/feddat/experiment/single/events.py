"""Report the progress of a run: metrics and log lines on disk, and events for observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from feddat.config import RunConfig
from feddat.experiment.single.folder import ExperimentError, RunFolder, disk_errors
from feddat.experiment.single.trackers import trackers
from feddat.log import JsonLog

#: Receives plain event dictionaries during a run.
Progress = Callable[[dict[str, Any]], None]


class Announcer:
    """Writes metrics and log lines for the events of a run, and passes them on with an estimate of the time left.

    | event | with |
    | --- | --- |
    | ``start`` | ``name``, ``method``, ``title``, ``folder``, ``clients``, ``parameters``, ``round`` (last finished) |
    | ``fit`` | ``client``, ``examples``, ``metrics`` (losses) |
    | ``eval`` | ``client``, ``examples``, ``split``, ``scores`` (percent by route; empty if the client shares none) |
    | ``updates`` | ``updates``: ``norm`` and ``agreement`` of the clients' updates, :class:`~feddat.app.updates` |
    | ``failed``, ``refused`` | ``client``, ``reason``, ``kind`` (of message) |
    | ``kept`` | ``reason`` why the global adapter stays unchanged in the round |
    | ``data`` | ``client``, ``split``, ``reason`` (issues in its data), ``grave``, ``questions`` and counts |
    | ``round`` | ``metrics`` and, by split, ``scores``: means over clients; ``seconds``; ``bytes`` so far |
    | ``done`` | ``summary`` |

    All events have ``rounds`` and ``seconds_left`` (``None`` before the first round is finished); all except ``data``
    have ``round``. Only the log contains ``asked`` (``kind`` of message, ``clients``), and ``interrupted`` and
    ``failure`` (``reason``), with which a session of the run ends.
    """

    def __init__(self, folder: RunFolder, rounds: int, progress: Progress | None) -> None:
        self._folder, self._rounds = folder, rounds
        #: Returns the name of a route in metrics.
        self.route_name: Callable[[str], str] = str
        self._progress = progress or (lambda event: None)
        self._left: float | None = None
        self._told = time.perf_counter()
        self._log: JsonLog | None = None
        self._trackers: list[Progress] = []

    @contextmanager
    def recording(self, config: RunConfig) -> Iterator[None]:
        """Write the log, and feed the trackers that ``log`` in the configuration names, during a run.

        Raises:
            ConfigError: a tracker is not installed.
        """
        logger, self._log = logging.getLogger("feddat"), JsonLog(self._folder.log_file)
        logger.addHandler(self._log)
        try:
            with trackers(config, self._folder.path) as self._trackers:
                yield
            self._record({"event": "done", "round": self._rounds, "rounds": self._rounds})
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            # If the disk refuses the log as well, the first error is the one to report.
            with suppress(ExperimentError):
                self._record({"event": "failure" if isinstance(error, Exception) else "interrupted", "reason": reason})
            raise
        finally:
            logger.removeHandler(self._log)
            self._log, self._trackers = None, []

    def __call__(self, event: dict[str, Any]) -> None:
        """Record an event of the server and pass it on."""
        if event["event"] == "asked":
            self._record(event)
            return
        if event["event"] == "round":
            # From here on the round can count as finished, so its lines must be on the disk.
            self._folder.append_metrics([], sync=True)
            self._left, self._told = event["seconds_left"], time.perf_counter()
        else:
            self._folder.append_metrics(self._lines(event))
        self.tell(**event)

    def tell(self, **event: Any) -> None:
        """Pass on an event that has no metrics."""
        left = None if self._left is None else max(0.0, self._left - (time.perf_counter() - self._told))
        event |= {"rounds": self._rounds, "seconds_left": left}
        self._record(event)
        for tracker in self._trackers:
            tracker(event)
        self._progress(event)

    def _record(self, event: Mapping[str, Any]) -> None:
        if self._log is not None:
            with disk_errors(self._log.path):
                self._log.event(event)

    def _lines(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        if event["event"] == "kept":
            return [{"round": event["round"], "kept": event["reason"]}]
        if event["event"] == "updates":
            return [{"round": event["round"], "updates": event["updates"]}]
        line = {"round": event["round"], "client": event["client"]}
        if event["event"] == "fit":
            return [line | {"split": "train", "examples": event["examples"], "metrics": event["metrics"]}]
        if event["event"] == "eval":
            line |= {"split": event["split"], "examples": event["examples"]}
            routes = event["scores"].items()
            return [line | {"route": self.route_name(route), "score": score} for route, score in routes]
        return [line | {event["event"]: event["reason"], "during": event["kind"]}]
