"""What a run says as it goes on: lines of metrics and of the log on the disk, and events for whoever watches."""

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

#: Receives plain event dictionaries, as a run goes on.
Progress = Callable[[dict[str, Any]], None]


class Announcer:
    """Writes metrics and log of a run as its events come by, and passes them on with an estimate of the time left.

    | event | with |
    | --- | --- |
    | ``start`` | ``name``, ``method``, ``title``, ``folder``, ``clients``, ``parameters``, ``round`` (last one done) |
    | ``fit`` | ``client``, ``examples``, ``metrics`` (losses) |
    | ``eval`` | ``client``, ``examples``, ``split``, ``scores`` (percent by route; none of a client that keeps them) |
    | ``updates`` | ``updates``: ``norm`` and ``agreement`` of the clients' updates, :class:`~feddat.app.updates` |
    | ``failed``, ``refused`` | ``client``, ``reason``, ``kind`` (of message) |
    | ``kept`` | ``reason`` for which the global adapter stays as it was before the round |
    | ``data`` | ``client``, ``split``, ``reason``: what of its data cannot count; ``grave``, ``questions`` and counts |
    | ``round`` | ``metrics`` and, by split, ``scores``: means over clients; ``seconds``; ``bytes`` so far |
    | ``done`` | ``summary`` |

    All have ``rounds`` and ``seconds_left`` (``None`` before the first round is done), all but ``data`` also ``round``.
    Only in the log are ``asked`` (``kind`` of message, ``clients``), and ``interrupted`` and ``failure`` (``reason``),
    which end a stretch.
    """

    def __init__(self, folder: RunFolder, rounds: int, progress: Progress | None) -> None:
        self._folder, self._rounds = folder, rounds
        #: What metrics call a route.
        self.route_name: Callable[[str], str] = str
        self._progress = progress or (lambda event: None)
        self._left: float | None = None
        self._told = time.perf_counter()
        self._log: JsonLog | None = None
        self._trackers: list[Progress] = []

    @contextmanager
    def recording(self, config: RunConfig) -> Iterator[None]:
        """Keep the log, and what ``log`` in the configuration asks for, while a run goes on in its folder.

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
            with suppress(
                ExperimentError
            ):  # of a disk that refuses the log as well: the first error is the one to tell
                self._record({"event": "failure" if isinstance(error, Exception) else "interrupted", "reason": reason})
            raise
        finally:
            logger.removeHandler(self._log)
            self._log, self._trackers = None, []

    def __call__(self, event: dict[str, Any]) -> None:
        """Take note of an event of the server, and pass it on."""
        if event["event"] == "asked":
            self._record(event)
            return
        if event["event"] == "round":
            # From here on the round may count as done, so that its lines must be on the disk.
            self._folder.append_metrics([], sync=True)
            self._left, self._told = event["seconds_left"], time.perf_counter()
        else:
            self._folder.append_metrics(self._lines(event))
        self.tell(**event)

    def tell(self, **event: Any) -> None:
        """Pass on an event that leaves no metrics."""
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
