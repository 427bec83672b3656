"""The log of a run, and the progress read from it: during the run, after an interruption, and at the end."""

import json
import logging
import os
import time
from datetime import datetime

import pytest

from feddat.client.trainer import Participant
from feddat.experiment import Experiment, ExperimentError
from feddat.json_lines import objects
from feddat.log import JsonLog
from feddat.watching.progress import find_runs, read_progress
from helpers import full_disk


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def progress_of(config):
    return read_progress(config.run_dir, time.time())


def states(run):
    return {client.name: client.state for client in run.clients}


class Stop(KeyboardInterrupt):
    pass


def test_a_run_as_it_goes_on_is_stopped_and_resumed(make_config, monkeypatch):
    config = make_config(rounds=3)
    fit = Participant.fit

    def broken(self, shared, round, extras=None):
        if (self.name, round) == ("bob", 2):
            raise RuntimeError("disk on fire")
        return fit(self, shared, round, extras)

    monkeypatch.setattr(Participant, "fit", broken)
    seen = []

    def watch(event):
        seen.append((event["event"], event.get("client"), progress_of(config)))
        if (event["event"], event["round"]) == ("fit", 3):
            raise Stop

    with pytest.raises(Stop):
        Experiment(config).run(watch)

    begun, first = seen[0][2], seen[1][2]
    assert (begun.state, begun.round, begun.rounds, begun.score) == ("running", 0, 3, None)
    assert first.doing == "train, round 1"
    assert states(first) == {"ann": "answered", "bob": "waiting"}
    failed = next(run for kind, client, run in seen if (kind, client) == ("failed", "bob"))
    assert failed.clients[1].state == "failed"
    assert failed.clients[1].detail == "RuntimeError: disk on fire"
    ended = [run for kind, _, run in seen if kind == "round"]
    assert [run.round for run in ended] == [1, 2]
    assert [len(run.curves["validation"]) for run in ended] == [1, 2]
    assert 0 < ended[0].bytes["up"] < ended[1].bytes["up"]
    assert ended[1].seconds_left > 0

    stopped = progress_of(config)
    assert (stopped.state, stopped.round, stopped.doing) == ("stopped", 2, "")
    assert states(stopped) == {"ann": "answered", "bob": "idle"}
    assert lines(config.run_dir)[-1]["event"] == "interrupted"

    summary = Experiment(config).run(resume=True)
    done = progress_of(config)
    assert (done.state, done.round, done.score) == ("finished", 3, summary["mean"])
    assert done.bytes == {way: summary["bytes"][way] for way in ("up", "down")}
    # Ann began round 3 twice, which counts once; bob missed round 2.
    assert [(client.rounds, client.troubles) for client in done.clients] == [(3, 0), (2, 1)]
    assert [n for n, _ in done.curves["validation"]] == [n for n, _ in done.losses] == [1, 2, 3]

    log = lines(config.run_dir)
    keys = ["time", "level", "event", "round", "client", "message", "pid"]
    assert all(list(line)[:7] == keys for line in log)
    assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in log)
    assert sorted(line["time"] for line in log) == [line["time"] for line in log]
    assert [line["round"] for line in log if line["event"] == "start"] == [0, 2]
    warned = [line for line in log if line["level"] == "WARNING"]
    assert [line["message"] for line in warned] == [
        "round 2: client bob failed (train): RuntimeError: disk on fire",
        "Stop",
    ]


def test_a_run_that_cannot_go_on_says_why(make_config, monkeypatch):
    def broken(self, shared, round, extras=None):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(Participant, "fit", broken)
    config = make_config()
    with pytest.raises(ExperimentError):
        Experiment(config).run()
    run = progress_of(config)
    assert run.state == "failed"
    assert "round 1, train: no client could do its part" in run.reason
    assert states(run) == {"ann": "failed", "bob": "failed"}
    assert find_runs(config.runs_dir) == [config.run_dir]


def test_a_line_that_a_full_disk_tore_does_not_spoil_the_next_one(tmp_path):
    """Neither this process nor one that resumes the run adds to it."""
    path, events = tmp_path / "log.jsonl", [{"event": "round", "round": n, "rounds": 9} for n in range(4)]
    log = JsonLog(path)
    log.event(events[0])
    size = path.stat().st_size
    with full_disk(size + 20), pytest.raises(OSError, match="too large"):
        log.event(events[1])
    assert path.stat().st_size == size + 20
    log.event(events[2])
    assert [line["round"] for line in objects(path.read_bytes())] == [0, 2]
    os.truncate(path, path.stat().st_size - 20)
    JsonLog(path).event(events[3])
    assert [line["round"] for line in objects(path.read_bytes())] == [0, 3]


def test_warnings_of_the_package_are_in_the_log(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    logger = logging.getLogger("feddat.client.store")
    logger.addHandler(log)
    try:
        logger.warning("state %s is\nunreadable", "x")
        logger.info("not worth a line")
    finally:
        logger.removeHandler(log)
    (line,) = lines(tmp_path)
    assert (line["level"], line["event"], line["message"]) == ("WARNING", "log", "state x is unreadable")
    assert line["logger"] == "feddat.client.store"


def test_a_client_that_is_a_process_of_its_own_has_its_own_log(tmp_path):
    """An event that the client app attaches to a message becomes fields of the log line."""
    log = JsonLog(tmp_path / "log.jsonl", logging.INFO)
    logger = logging.getLogger("feddat.app.client")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        event = {"event": "fit", "round": 3, "client": "ann", "examples": 5}
        logger.info("client %s: has trained", "ann", extra={"event": event})
    finally:
        logger.removeHandler(log)
        logger.setLevel(logging.NOTSET)
    (line,) = lines(tmp_path)
    assert {key: line[key] for key in event} == event
    assert (line["level"], line["message"]) == ("INFO", "client ann: has trained")
