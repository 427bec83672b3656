"""The consortium example runs to its end, although it kills a node and the server on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "consortium"


@pytest.mark.slow  # minutes (`make consortium`): the server must first give up the killed node
def test_three_hospitals_go_through_it_all(tmp_path):
    script = EXAMPLE / "consortium.py"
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True) as example:
        try:
            printed, _ = example.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            example.send_signal(signal.SIGINT)  # it then ends the processes that it has started
            printed, _ = example.communicate()
    print(printed)
    assert example.returncode == 0
    server = tmp_path / "consortium" / "server"
    run = server / "runs" / "first"
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["clients"]) == {"north", "south", "west"}
    assert summary["rounds"] == 6
    assert not summary["missing"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = {
        name: [line["round"] for line in lines if line.get("split") == "train" and line["client"] == name]
        for name in summary["clients"]
    }
    assert rounds["north"] == rounds["south"] == [1, 2, 3, 4, 5, 6]
    assert rounds["west"] == [1, 5, 6]
    assert [line["failed"] for line in lines if "failed" in line] == [
        "its node has gone: two heartbeats without a sign of life"
    ]
    # West went on from its state of round 1, which was found by its name.
    site = yaml.safe_load((tmp_path / "consortium" / "clients" / "west" / "client.yaml").read_text())
    states = list((tmp_path / "consortium" / "clients" / "west" / site["state"]).rglob("round-*.safetensors"))
    assert {path.parent.name for path in states} == {"west"}
    assert len({path.parent.parent for path in states}) == 1, "one run, resumed"
    assert printed.rstrip().endswith("report.html")
