"""Whole runs with privacy for clients, from the command line: the server adds the noise, or each client a share."""

import json

import pytest
from typer.testing import CliRunner

from feddat.cli.program import app
from feddat.experiment import Experiment

COMMON = {
    "method": "feddat",
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-3,
    "privacy.unit": "client",
    "privacy.clip": 0.05,
    "privacy.noise_seed": 3,
    "share_metrics": "none",
    "threads": 1,
}


@pytest.fixture
def three(make_config):
    ann, bob = make_config().clients.values()
    return lambda **values: make_config(clients={"ann": ann, "bob": bob, "cid": bob}, **COMMON | values)


def run(config, tmp_path):
    path = tmp_path / f"{config.name}.yaml"
    path.write_text(config.to_yaml())
    found = CliRunner().invoke(app, ["run", "-c", str(path)])
    assert found.exit_code == 0, found.output
    return json.loads((config.run_dir / "summary.json").read_text())


def test_noise_of_the_server(three, tmp_path):
    config = three(name="central", **{"wire.format": "int8", "wire.delta": True})
    summary = run(config, tmp_path)
    assert summary["privacy"]["unit"] == "client" and (summary["failed"], summary["refused"]) == (0, 0)
    ledger = json.loads((config.run_dir / "checkpoints" / "privacy.json").read_text())
    assert ledger["rounds"] == dict.fromkeys(("ann", "bob", "cid"), 2)
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line.get("metrics") or "score" in line or "updates" in line]


def test_a_small_limit_on_updates_leaves_no_client_out(three, tmp_path):
    """With a clip above ``server.max_update`` every update is too far for a run without privacy; here each counts."""
    config = three(name="far", rounds=1, **{"server.max_update": 1e-6})
    run(config, tmp_path)
    ledger = json.loads((config.run_dir / "checkpoints" / "privacy.json").read_text())
    assert ledger["rounds"] == dict.fromkeys(("ann", "bob", "cid"), 1)
    events = [json.loads(line) for line in (config.run_dir / "log.jsonl").read_text().splitlines()]
    assert not [event for event in events if event.get("event") == "refused"]


def test_noise_in_shares(three, tmp_path):
    config = three(
        name="shares",
        **{"secure_aggregation.enabled": True, "secure_aggregation.bits": 20, "secure_aggregation.clip": 0.05},
    )
    summary = run(config, tmp_path)
    assert (summary["failed"], summary["refused"]) == (0, 0)
    for name in ("ann", "bob", "cid"):
        (steps,) = json.loads((config.run_dir / "clients" / name / "privacy.json").read_text())["steps"]
        assert (steps["count"], steps["rate"], steps["concentrated"]) == (2, 1.0, True)
    Experiment(config.updated({"name": "again"})).run()
    first, again = (
        (config.runs_dir / name / "checkpoints" / "round-00002" / "adapter_model.safetensors").read_bytes()
        for name in ("shares", "again")
    )
    assert first == again
