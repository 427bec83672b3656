"""The command line for other programs and terminals: JSON, pipes, no colours, completion."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from feddat.cli import common, main
from helpers import make_tiny_vilt

FEDDAT = [sys.executable, "-m", "feddat"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}


def called(capsys, *arguments):
    """Run a command in this process; return exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    said = capsys.readouterr()
    return stopped.value.code, said.out, said.err


@pytest.fixture(autouse=True)
def log_as_it_was():
    """Restore the logger after each test, because a command sets up its own."""
    logger = logging.getLogger("feddat")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with a finished run of many clients with long names, and an unfinished run."""
    clients = {f"hospital-department-{n}": {"dat": 50.0 + n, "local": 40.0, "global": 30.0} for n in range(9)}
    summary = {"method": "feddat", "clients": clients, "mean": 54.0, "rounds": 3, "seed": 0, "split": "test"}
    summary["bytes"] = {"up": 1000, "down": 2000}
    for name in ("done", "broken"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("method: feddat\nbenchmark: mini/domain\nrounds: 3\nseed: 0\n")
        (folder / "metrics.jsonl").write_text("")
    (tmp_path / "runs" / "done" / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "runs"


def test_list_as_json(capsys):
    from feddat.experiment import STUDIES, SUITES, known_methods
    from feddat.kinds import KINDS

    code, out, err = called(capsys, "list", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["methods"] == known_methods()
    assert (set(found["adapters"]), set(found["studies"]), set(found["suites"])) == (
        set(KINDS),
        set(STUDIES),
        set(SUITES),
    )
    assert "vilt-mini" in found["models"]
    assert all(isinstance(text, str) for names in found.values() for text in names.values())


def test_status_as_json(capsys, runs):
    code, out, _ = called(capsys, "status", str(runs), "--json")
    found = json.loads(out)
    assert (code, found["folder"]) == (0, str(runs))
    assert {run["name"]: (run["state"], run["score"]) for run in found["runs"]} == {
        "done": ("finished", 54.0),
        "broken": ("stopped", None),
    }


def test_report_as_json_writes_nothing(capsys, runs):
    before = sorted(runs.rglob("*"))
    code, out, _ = called(capsys, "report", str(runs / "done"), "--json")
    assert (code, json.loads(out)["mean"]) == (0, 54.0)
    (runs / "done" / "comparison.json").write_text('{"runs": [], "methods": {}}')
    assert json.loads(called(capsys, "report", str(runs / "done"), "--json")[1]) == {"runs": [], "methods": {}}
    (runs / "done" / "comparison.json").unlink()
    assert sorted(runs.rglob("*")) == before
    for folder, said in ((runs / "broken", "the run has not finished"), (runs / "none", "no such run folder")):
        code, out, err = called(capsys, "report", str(folder), "--json")
        assert (code, out) == (2, "")
        assert said in err


def test_a_model_checked_as_json(capsys, tmp_path):
    model = make_tiny_vilt(tmp_path / "model")
    code, out, err = called(capsys, "models", "check", str(model), "train.batch_size=2", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["family"], found["method"], found["kind"]) == ("vilt", "feddat", "bottleneck")
    assert found["memory"]["least"] == sum(found["memory"][key] for key in ("weights", "training", "saved"))
    assert found["parameters"]["feddat"]["trainable"] > found["parameters"]["fedavg"]["trainable"] > 0


def test_what_is_no_terminal_has_no_width(capsys, runs, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(common.out, "width", 80)
    code, out, _ = called(capsys, "status", str(runs / "done"))
    assert (code, common.out.width) == (0, common.UNLIMITED)
    assert max(map(len, out.splitlines())) < 300
    monkeypatch.setattr(common.out, "width", 77)
    monkeypatch.setenv("COLUMNS", "77")
    called(capsys, "status", str(runs / "done"))
    assert common.out.width == 77, "as was asked for"


def test_names_that_end_a_command_line(tmp_path):
    """Answer the requests that bash sends when TAB is pressed after `feddat stu` and `feddat models `."""
    for words, position, expected in (("feddat stu", "1", {"study"}), ("feddat models ", "2", {"check", "make-tiny"})):
        asked = {"_FEDDAT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
        done = subprocess.run(FEDDAT, env=ENVIRONMENT | asked, capture_output=True, text=True)
        assert done.returncode == 0
        assert expected <= set(done.stdout.split())
    # Typer detects the shell that started it, and a test may not have been started from one.
    named = ENVIRONMENT | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([*FEDDAT, "--show-completion", "bash"], env=named, capture_output=True, text=True)
    assert "_FEDDAT_COMPLETE=complete_bash" in done.stdout


def test_the_package_is_a_program():
    done = subprocess.run([*FEDDAT, "--version"], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("feddat ")


def in_terminal(arguments, environment):
    """Return what a command writes to a terminal, including control sequences."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([*FEDDAT, *arguments], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    return shown.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[349][0-7]|[34]8)(?:;\d+)*m")


def test_colours_are_for_terminals_that_want_them(runs):
    arguments = ["status", str(runs / "done")]
    terminal = ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "80"}
    assert COLOUR.search(in_terminal(arguments, terminal))
    assert not COLOUR.search(in_terminal(arguments, terminal | {"NO_COLOR": "1"}))
    done = subprocess.run([*FEDDAT, *arguments], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_a_reader_that_has_seen_enough(runs):
    command = f"{' '.join(FEDDAT)} status {runs} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{", "")
