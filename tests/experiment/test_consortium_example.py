"""The example of a consortium runs to its end, whatever is killed on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "consortium"


@pytest.mark.slow  # three minutes: a node that was killed must first be given up
def test_three_hospitals_go_through_it_all(tmp_path):
    script = EXAMPLE / "consortium.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
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
    assert rounds["west"][0] == 1
    assert 2 not in rounds["west"]
    assert rounds["west"][-2:] == [5, 6]
    # West's state of round 1 was found again by its name, and gone on from.
    site = yaml.safe_load((tmp_path / "consortium" / "clients" / "west" / "client.yaml").read_text())
    states = list((tmp_path / "consortium" / "clients" / "west" / site["state"]).rglob("round-*.safetensors"))
    assert {path.parent.name for path in states} == {"west"}
    assert len({path.parent.parent for path in states}) == 1, "one run, resumed"
    assert done.stdout.rstrip().endswith("report.html")
