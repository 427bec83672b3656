"""The progress of runs, read from their folders during a run or afterwards, for `feddat status` and the dashboard.

This module writes nothing and takes no lock. ``log.jsonl`` says who was asked, who answered and how much was sent;
``metrics.jsonl`` has the scores and losses; ``summary.json`` shows that the run is finished. A run from a version
without a log still has its scores.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from feddat.example import DataError
from feddat.json_lines import LineError, objects, read
from feddat.report import tables
from feddat.report.folder import read_summary
from feddat.report.methods import method_name
from feddat.yaml_files import YamlError, read_yaml

#: One line of a file of JSON lines.
Line: TypeAlias = Mapping[str, Any]
State: TypeAlias = Literal["running", "finished", "stopped", "failed"]
#: A client is late when it takes this many times as long as the slowest answer so far.
LATE = 1.5
#: ... but never before this many seconds, which is also the limit before the first answer.
LATE_SECONDS = 5.0
#: Files that distinguish a run's folder from other folders with a configuration.
_LEFT_BY_RUNS = ("log.jsonl", "metrics.jsonl", "summary.json")


@dataclass
class ClientProgress:
    """One client of a run.

    Attributes:
        name: name of the client.
        state: its state in the current or the last exchange: ``answered``, ``waiting``, ``late``, ``failed``,
            ``refused``, or ``idle`` if it was not asked.
        detail: the reason of a failure, or how long the server has waited for it, in seconds.
        rounds: number of rounds in which it has trained.
        troubles: number of failures and refused replies so far.
        score: last score of the method's own answer, in percent.
        shares: whether the client shares its scores.
        loss: last training loss.
    """

    name: str
    state: str = "idle"
    detail: str = ""
    rounds: int = 0
    troubles: int = 0
    score: float | None = None
    shares: bool = True
    loss: float | None = None


@dataclass
class RunProgress:
    """One run.

    Attributes:
        name: path of its folder, relative to the searched one.
        method, benchmark, seed, rounds: from its configuration.
        state: ``stopped`` runs can be resumed; for ``failed`` ones, ``reason`` says why.
        round: number of completed rounds.
        doing: current activity: ``train`` or ``evaluate``, and the round; empty if there is none.
        seconds_left: estimated time left; ``None`` if unknown.
        updated: time of the last log entry, in seconds since 1970.
        bytes: ``up`` and ``down`` so far; ``None`` if unknown.
        score: last mean score over clients, in percent.
        split: the split of that score.
        curves: split -> rounds and mean scores of the method's own answer.
        losses: rounds and mean training losses.
        clients: the clients, in the run's order.
        called: the run's own title of its method.
    """

    name: str
    method: str
    benchmark: str
    seed: int
    rounds: int
    state: State = "stopped"
    reason: str = ""
    round: int = 0
    doing: str = ""
    seconds_left: float | None = None
    updated: float | None = None
    bytes: dict[str, int] | None = None
    score: float | None = None
    split: str = ""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    clients: list[ClientProgress] = field(default_factory=list)
    called: str = ""

    @property
    def title(self) -> str:
        """Return the method's name in print: the run's own title if it has one."""
        return self.called or method_name(self.method)

    @property
    def shares(self) -> bool:
        """Return whether any client shares its scores; true if no clients are known."""
        return not self.clients or any(client.shares for client in self.clients)

    def to_json(self) -> dict[str, Any]:
        """Return the run as values that JSON can hold."""
        return asdict(self) | {"title": self.title, "shares": self.shares}


def find_runs(root: Path) -> list[Path]:
    """Return the run folders at or inside a folder, in the order of their names.

    Raises:
        DataError: the folder does not exist.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return list(_runs_below(root))


def read_progress(folder: Path, now: float, root: Path | None = None) -> RunProgress:
    """Return the progress of a run.

    Args:
        folder: folder of the run.
        now: current time, in seconds since 1970.
        root: folder that the run's name is relative to; default: the parent of ``folder``.

    Raises:
        DataError: one of its files cannot be read, or does not come from a run.
    """
    try:
        return _read(folder, now, root)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{folder}: its files do not come from a run: {type(error).__name__}: {error}") from None


def read_all(root: Path, now: float) -> tuple[list[RunProgress], list[str]]:
    """Return the progress of all runs at or inside a folder, active runs first, and why others cannot be read.

    Raises:
        DataError: the folder does not exist.
    """
    runs, unreadable = [], []
    for folder in find_runs(root):
        try:
            runs.append(read_progress(folder, now, root))
        except DataError as error:
            unreadable.append(str(error))
    return sorted(runs, key=lambda run: run.state != "running"), unreadable


def _read(folder: Path, now: float, root: Path | None) -> RunProgress:
    config = _config(folder)
    name = str(folder.relative_to(root)) if root is not None and folder != root else folder.name
    source = config.get("benchmark") or "own data"
    run = RunProgress(name, str(config.get("method")), str(source), int(config.get("seed", 0)), int(config["rounds"]))
    log = objects(file.read_bytes()) if (file := folder / "log.jsonl").is_file() else []
    # A resumed run repeats rounds that it had begun: earlier lines about them do not count.
    sessions = [index for index, line in enumerate(log) if line["event"] == "start"]
    begun = log[sessions[-1]] if sessions else None
    done = int(begun["round"]) if begun is not None else 0
    events = [line for index, line in enumerate(log) if begun is None or index >= sessions[-1] or _before(line, done)]
    _follow(run, events, now)
    _score(run, _metrics(folder / "metrics.jsonl"))
    if (file := folder / "summary.json").is_file():
        summary = read_summary(file)
        run.state, run.round, run.doing, run.seconds_left = "finished", run.rounds, "", 0.0
        run.score, run.split = summary["mean"], str(summary.get("split", "test"))
        run.bytes = {way: int(summary["bytes"][way]) for way in ("up", "down")}
    elif run.state != "failed":
        run.state = "running" if _alive(begun, events) else "stopped"
    if run.state != "running":
        run.doing = ""
        for client in run.clients:
            if client.state in ("waiting", "late"):
                client.state, client.detail = "idle", ""
    return run


# --- the log ----------------------------------------------------------------------------------------------------------


def _follow(run: RunProgress, events: Sequence[Line], now: float) -> None:
    """Read rounds, bytes and the state of every client from the log."""
    clients: dict[str, ClientProgress] = {}
    asked: dict[str, float] = {}
    rounds: dict[str, set[int]] = {}
    slowest = 0.0
    for line in events:
        kind, at = line["event"], _seconds(line["time"])
        run.updated = at
        if kind == "start":
            for name in line["clients"]:
                clients.setdefault(name, ClientProgress(name))
            run.round, run.reason, run.state, asked = int(line["round"]), "", "stopped", {}
            run.called = str(line.get("title", ""))
        elif kind == "asked":
            run.doing = f"{line['kind']}, round {line['round']}"
            asked = dict.fromkeys(line["clients"], at)
            for client in clients.values():
                client.state, client.detail = "idle", ""
        elif kind in ("fit", "eval", "failed", "refused"):
            client = clients.setdefault(line["client"], ClientProgress(line["client"]))
            if client.name in asked:
                slowest = max(slowest, at - asked.pop(client.name))
            client.state = kind if kind in ("failed", "refused") else "answered"
            client.detail = str(line.get("reason", ""))
            client.troubles += kind in ("failed", "refused")
            if kind == "fit":  # a round begins again if too many clients disconnected
                rounds.setdefault(client.name, set()).add(line["round"])
                client.rounds = len(rounds[client.name])
            if kind == "eval":
                client.shares = bool(line.get("scores")) or line.get("examples") == 0
        elif kind == "round":
            run.round, run.bytes, run.seconds_left = int(line["round"]), line.get("bytes"), line.get("seconds_left")
            run.doing, asked = "", {}
        elif kind == "failure":
            run.state, run.reason = "failed", line["reason"]
    for name, since in asked.items():
        waited = now - since
        client = clients.setdefault(name, ClientProgress(name))
        client.state = "late" if waited > max(LATE_SECONDS, LATE * slowest) else "waiting"
        client.detail = f"{waited:.0f} s"
    if run.seconds_left is not None and run.updated is not None:
        run.seconds_left = max(0.0, run.seconds_left - (now - _last_round(events)))
    run.clients = list(clients.values())


def _last_round(events: Sequence[Line]) -> float:
    return next(_seconds(line["time"]) for line in reversed(events) if line["event"] == "round")


def _before(line: Line, round: int) -> bool:
    return line["event"] == "start" or (line["round"] is not None and line["round"] <= round)


def _alive(begun: Line | None, events: Sequence[Line]) -> bool:
    """Return whether the process that wrote the last ``start`` still runs; assume so for another machine."""
    if begun is None or events[-1]["event"] in ("done", "interrupted", "failure"):
        return False
    if begun.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(begun["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- the metrics ------------------------------------------------------------------------------------------------------


def _score(run: RunProgress, lines: Sequence[Line]) -> None:
    """Fill in the curves, and every client's last score and loss."""
    clients = {client.name: client for client in run.clients}
    scores: dict[str, dict[int, dict[str, float]]] = {}
    losses: dict[int, dict[str, float]] = {}
    routes: dict[str, float] = {line["route"]: line["score"] for line in lines if "score" in line}
    own = tables.own_route(routes) if routes else ""
    for line in lines:
        if "client" not in line:  # a line about all clients together
            continue
        name, round = line["client"], line["round"]
        client = clients.setdefault(name, ClientProgress(name))
        if line.get("route") == own and "score" in line:
            client.score = line["score"]
            scores.setdefault(line["split"], {}).setdefault(round, {})[name] = line["score"]
        elif line.get("split") == "train" and "loss" in line.get("metrics", {}):
            client.loss = line["metrics"]["loss"]
            losses.setdefault(round, {})[name] = line["metrics"]["loss"]
    run.clients = list(clients.values())
    run.curves = {split: _means(by_round) for split, by_round in scores.items()}
    run.losses = _means(losses)
    if run.curves:
        run.split, curve = max(run.curves.items(), key=lambda item: item[1][-1][0])
        run.score = curve[-1][1]
    if run.clients and not run.round and lines:
        run.round = max(line["round"] for line in lines if "score" in line) if scores else 0


def _means(by_round: Mapping[int, Mapping[str, float]]) -> list[tuple[int, float]]:
    """Return the mean over clients for every round, without a last round that some clients have not reported yet."""
    most = max((len(values) for values in by_round.values()), default=0)
    whole = {round: values for round, values in by_round.items() if len(values) == most or round < max(by_round)}
    return [(round, statistics.fmean(values.values())) for round, values in sorted(whole.items())]


# --- files ------------------------------------------------------------------------------------------------------------


def _runs_below(folder: Path) -> Iterator[Path]:
    if (folder / "config.yaml").is_file() and any((folder / name).exists() for name in _LEFT_BY_RUNS):
        yield folder  # do not search inside it: everything there belongs to the run
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _runs_below(entry)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.yaml"
    try:
        config = read_yaml(file)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except YamlError as error:
        raise DataError(f"{file}: {error}") from None
    if not isinstance(config, dict) or "rounds" not in config:
        raise DataError(f"{file}: not the configuration of a run")
    return config


def _metrics(file: Path) -> list[dict[str, Any]]:
    try:
        return read(file) if file.is_file() else []
    except LineError as error:
        raise DataError(str(error)) from None


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
