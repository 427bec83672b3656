"""The progress of runs, read from logs with simple times, and shown in a terminal and over HTTP in a browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from browser import BROWSER, run_browser
from feddat.cli import main
from feddat.example import DataError
from feddat.watching.dashboard import Dashboard
from feddat.watching.progress import find_runs, read_all, read_progress
from feddat.watching.status import progress_view

NOW = 1_000_000.0
DEAD = 2**22 + 1  # beyond the largest process id of Linux
SUMMARY = {
    **{"method": "fedavg", "seed": 1, "rounds": 4, "split": "test", "mean": 61.5},
    **{"clients": {"ann": {"score": 61.5}}, "bytes": {"up": 5000, "down": 9000}},
}


class Log:
    """Writes a run's folder, one event at a time."""

    def __init__(self, folder: Path, rounds: int = 4, method: str = "feddat", pid: int | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder, self.pid = folder, os.getpid() if pid is None else pid
        config = f"method: {method}\nbenchmark: mini/domain\nseed: 1\nrounds: {rounds}\n"
        (folder / "config.yaml").write_text(config)

    def say(self, at: float, event: str, round: int | None = None, client: str | None = None, **fields: Any) -> None:
        time = datetime.fromtimestamp(NOW + at, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "event": event, "round": round, "client": client, "pid": self.pid} | fields
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def start(self, at: float, round: int = 0, host: str | None = None) -> None:
        self.say(at, "start", round, clients=["ann", "bob", "cid"], host=host or socket.gethostname())

    def score(self, round: int, **scores: float) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            for client, score in scores.items():
                line = {"round": round, "client": client, "split": "validation"}
                file.write(json.dumps(line | {"route": "local", "score": score - 10}) + "\n")
                file.write(json.dumps(line | {"route": "dat", "score": score}) + "\n")


def whole_round(log: Log, at: float, round: int) -> None:
    """Log a round of 8 seconds: ann answers after 1 s, bob after 2 s, cid after 4 s; then it is scored."""
    log.say(at, "asked", round, kind="train", clients=["ann", "bob", "cid"])
    for client, took in (("ann", 1), ("bob", 2), ("cid", 4)):
        log.say(at + took, "fit", round, client)
    log.score(round, ann=40.0 + round, bob=50.0 + round, cid=60.0 + round)
    log.say(at + 8, "round", round, bytes={"up": 1000 * round, "down": 3000 * round}, seconds_left=8.0 * (4 - round))


def test_a_client_is_late_when_it_takes_half_as_long_again_as_the_slowest_did(tmp_path: Path) -> None:
    log = Log(tmp_path / "run")
    log.start(-20)
    whole_round(log, -20, 1)
    log.say(-6, "asked", 2, kind="train", clients=["ann", "bob"])
    log.say(-5, "fit", 2, "bob")
    run = read_progress(log.folder, NOW)
    assert (run.state, run.round, run.rounds, run.doing) == ("running", 1, 4, "train, round 2")
    # The slowest took 4 s: 6 s are not late yet, 7 are.
    assert {c.name: (c.state, c.detail) for c in run.clients} == {
        "ann": ("waiting", "6 s"),
        "bob": ("answered", ""),
        "cid": ("idle", ""),
    }
    assert read_progress(log.folder, NOW + 1).clients[0].state == "late"
    assert run.bytes == {"up": 1000, "down": 3000}
    assert (run.score, run.split, run.curves) == (51.0, "validation", {"validation": [(1, 51.0)]})
    assert run.updated == NOW - 5
    assert run.seconds_left == 24 - 12


def test_a_resumed_run_counts_what_it_does_again_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "run")
    log.start(-90)
    whole_round(log, -90, 1)
    log.say(-80, "asked", 2, kind="train", clients=["ann", "bob", "cid"])
    log.say(-79, "fit", 2, "ann")
    log.say(-78, "failed", 2, "bob", reason="disk on fire", kind="train")
    log.start(-20, round=1)
    whole_round(log, -20, 2)
    run = read_progress(log.folder, NOW)
    assert [(client.rounds, client.troubles) for client in run.clients] == [(2, 0)] * 3


def test_a_dead_process_has_stopped_and_one_elsewhere_is_believed(tmp_path: Path) -> None:
    for name, pid, host, state in (
        ("here", DEAD, None, "stopped"),
        ("there", DEAD, "another.machine", "running"),
        ("alive", os.getpid(), None, "running"),
    ):
        log = Log(tmp_path / name, pid=pid)
        log.start(-20, host=host)
        log.say(-6, "asked", 1, kind="train", clients=["ann", "bob", "cid"])
        run = read_progress(log.folder, NOW)
        assert run.state == state
        assert (run.clients[0].state == "idle") == (state == "stopped")


def test_a_score_that_is_not_whole_yet_is_not_drawn(tmp_path: Path) -> None:
    log = Log(tmp_path / "run")
    log.start(-20)
    whole_round(log, -20, 1)
    log.score(2, ann=90.0)
    assert read_progress(log.folder, NOW).curves == {"validation": [(1, 51.0)]}


def test_a_growing_file_and_a_run_without_a_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "old" / "run")
    log.score(1, ann=40.0)
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "cli')
    run = read_progress(log.folder, NOW)
    assert (run.state, run.round, run.score, run.bytes, run.updated) == ("stopped", 1, 40.0, None, None)
    (log.folder / "metrics.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"metrics.jsonl, line 1: not JSON"):
        read_progress(log.folder, NOW)


def test_a_log_with_a_line_that_a_full_disk_tore_is_read_without_it(tmp_path: Path) -> None:
    log = Log(tmp_path / "run")
    log.start(-20)
    whole_round(log, -20, 1)
    with (log.folder / "log.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00\n')
    log.start(-9, round=1)
    whole_round(log, -8, 2)
    run = read_progress(log.folder, NOW)
    assert (run.state, run.round, run.bytes) == ("running", 2, {"up": 2000, "down": 6000})


def test_runs_are_found_wherever_they_lie_and_not_inside_each_other(tmp_path: Path) -> None:
    for name in ("b", "study/fp32/a", "study/int8/a"):
        Log(tmp_path / name).start(0)
    Log(tmp_path / "b" / "clients" / "ann").start(0)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "config.yaml").write_text("editor: vi\n")
    assert [str(run.relative_to(tmp_path)) for run in find_runs(tmp_path)] == ["b", "study/fp32/a", "study/int8/a"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_runs(tmp_path / "nowhere")


# --- where it is shown ------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with three runs: one is running, one has failed, one has finished."""
    root = tmp_path / "runs"
    live = Log(root / "live")
    live.start(-40)
    whole_round(live, -40, 1)
    whole_round(live, -30, 2)
    live.say(-20, "asked", 3, kind="train", clients=["ann", "bob", "cid"])
    live.say(-19, "fit", 3, "ann")
    failed = Log(root / "failed", pid=DEAD)
    failed.start(-40)
    whole_round(failed, -40, 1)
    failed.say(-20, "failure", reason="ExperimentError: <b>no</b> client could do its part")
    done = Log(root / "study" / "done", method="fedavg", pid=DEAD)
    done.start(-90)
    whole_round(done, -90, 4)
    (done.folder / "summary.json").write_text(json.dumps(SUMMARY))
    return root


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_runs_and_the_clients_of_those_that_go_on(runs: Path, width: int) -> None:
    console = Console(width=width, record=True, file=(runs / "out").open("w"))
    console.print(progress_view(read_all(runs, NOW)[0], NOW))
    text = console.export_text()
    assert re.search(r"live +running .* 2/4 +52.0 % +2.0 kB +6.0 kB +in 0 s", text)
    assert re.search(r"study/done +finished .* 4/4 +61.5 % +5.0 kB +9.0 kB", text)
    assert re.search(r"ann +answered +3 ", text)
    assert re.search(r"bob +late +2 .* 20 s", text)
    assert "ExperimentError" in text
    assert text.count("answered") == 1, "clients of runs that are over are not listed"
    assert all(len(line) <= width for line in text.splitlines())


def test_in_a_narrow_terminal_a_long_name_stays_on_one_line(tmp_path: Path) -> None:
    name = "compare-mini-domain/feddat-mild-heads-s0"
    log = Log(tmp_path / "runs" / name)
    log.start(-40)
    whole_round(log, -40, 1)
    for width, bytes_shown in ((80, False), (140, True)):
        console = Console(width=width, record=True, file=(tmp_path / "out").open("w"))
        console.print(progress_view(read_all(tmp_path / "runs", NOW)[0], NOW))
        text = console.export_text()
        line = next(line for line in text.splitlines() if name in line)
        assert "1/4" in line
        assert ("kB" in line) is bytes_shown


def test_the_command_line_shows_it_once_or_until_interrupted(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("feddat.cli.watching.time.sleep", sleep)
    for options, count in (([], 0), (["--watch", "--every", "0.5"], 3)):
        with pytest.raises(SystemExit) as ended:
            main(["status", str(runs), *options])
        assert ended.value.code == 0
        assert looks == [0.5] * count
        assert "study/done" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", str(runs / "nowhere")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {runs / 'nowhere'}: no such folder\n"


BROKEN = {
    "config.yaml": (b"rounds: [\n", "study/done/config.yaml: not valid YAML"),
    "config.yaml, not text": (b"rounds: 4 # \xff\n", "study/done/config.yaml: not UTF-8 text"),
    "config.yaml, no number": (b"rounds: .inf\n", "study/done: its files do not come from a run: OverflowError"),
    "log.jsonl": (b'{"time": 1}\n', "study/done: its files do not come from a run: KeyError: 'event'"),
    "metrics.jsonl": (b'{"client": "ann"}\n', "study/done: its files do not come from a run: KeyError: 'round'"),
    "summary.json": (b'{"bytes": 1}', "study/done/summary.json: key 'method' is missing"),
    "summary.json, mean": (
        json.dumps(SUMMARY | {"mean": "61.5"}).encode(),
        'study/done/summary.json: mean: expected a number, got "61.5"',
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_run_that_cannot_be_read_is_named_below_the_others(
    runs: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    content, reason = BROKEN[broken]
    (runs / "study" / "done" / broken.partition(",")[0]).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["status", str(runs)])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"live +running", text)
    assert "cannot be read:" in text
    assert reason.replace(" ", "") in text.replace(" ", "")
    with Dashboard(runs) as dashboard:
        state = dashboard.status()
    assert [run["name"] for run in state["runs"]] == ["failed", "live"]
    (told,) = state["unreadable"]
    assert reason in told


@pytest.fixture
def server(runs: Path) -> Iterator[Dashboard]:
    with Dashboard(runs) as dashboard:
        thread = threading.Thread(target=dashboard.serve_forever, args=(0.05,))
        thread.start()
        yield dashboard
        dashboard.shutdown()
        thread.join()


def ask(server: Dashboard, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_the_server_tells_the_same_and_nothing_else(server: Dashboard) -> None:
    answer = ask(server, "/status.json")
    state = json.loads(answer.read())
    assert {run["name"]: (run["state"], run["round"]) for run in state["runs"]} == {
        "failed": ("failed", 1),
        "live": ("running", 2),
        "study/done": ("finished", 4),
    }
    assert server.server_address[0] == "127.0.0.1"
    for path in ("/../config.yaml", "/live/config.yaml", "/runs", "/status.json/"):
        assert ask(server, path).status == 404
    assert ask(server, "/", method="POST").status == 501
    assert ask(server, "/status.json", host="evil.example:80").status == 403


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(server: Dashboard, runs: Path) -> None:
    (runs / "failed" / "metrics.jsonl").write_text("{\n")
    state = json.loads(ask(server, "/status.json").read())
    assert [run["name"] for run in state["runs"]] == ["live", "study/done"]
    assert len(state["unreadable"]) == 1
    assert "failed/metrics.jsonl, line 1" in state["unreadable"][0]


def test_what_has_changed_is_read_again(server: Dashboard, runs: Path) -> None:
    assert {run["state"] for run in server.status()["runs"]} == {"failed", "running", "finished"}
    (runs / "failed" / "summary.json").write_text(json.dumps(SUMMARY | {"mean": 1.0}))
    assert {run["name"]: run["score"] for run in server.status()["runs"]}["failed"] == 1.0


def test_the_page_asks_nobody_else(server: Dashboard) -> None:
    answer = ask(server, "/")
    html = answer.read().decode()
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert not re.search(r"@import|innerHTML|<link(?! rel=\"icon\" href=\"data:,\")", html)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_runs(server: Dashboard, tmp_path: Path) -> None:
    picture = tmp_path / "dashboard.png"
    flags = ["--virtual-time-budget=3000", "--window-size=1200,1400"]
    run_browser(tmp_path, server.url, *flags, f"--screenshot={picture}")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels.std(axis=(1, 2)) > 3).mean() > 0.3
    dom = run_browser(tmp_path, server.url, *flags, "--dump-dom")
    # Each of the three runs has one curve.
    assert dom.count('fill="none"') == 3
    assert "&lt;b&gt;no&lt;/b&gt; client" in dom
    text = " ".join(re.sub(r"<[^>]+>", " ", dom).split())
    assert re.search(r"live running FedDAT · mini/domain · seed 1 · train, round 3", text)
    assert re.search(r"bob late \d+ s 2 52.0 %", text)
    assert "1 running 1 finished 1 stopped or failed" in text
