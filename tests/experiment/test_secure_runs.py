"""Whole runs with secure aggregation: the same numbers in every runtime, and settings that cannot be used with it."""

import json
import os
import re
import signal

import pytest
from safetensors.torch import load_file

from feddat.config import ConfigError
from feddat.deploy.launch import run_in
from feddat.experiment import Experiment
from feddat.report.left_out import left_out
from two_clients import numbers

CLIENTS = ("ann", "bob", "cid")


@pytest.fixture
def secure(make_config):
    """Return a function that makes settings of a run of three clients, two of them with the same data."""
    ann, bob = make_config().clients.values()
    clients = dict(zip(CLIENTS, (ann, bob, bob), strict=True))

    def make(**values):
        settings = {"secure_aggregation__enabled": True, "secure_aggregation__clip": 0.05, "threads": 1}
        return make_config(clients=clients, **settings | values)

    return make


def alike(folder):
    """Return the numbers of a run without bytes, since messages of a deployment also carry certificates."""
    (folder / "predictions.json").write_text("[]")
    found = numbers(folder)
    found["summary"].pop("data", None)
    found["summary"].pop("bytes")
    found["summary"]["world"].pop("data", None)
    return found


def adapter(config, round=2):
    found = load_file(config.run_dir / "checkpoints" / f"round-{round:05d}" / "adapter_model.safetensors")
    return {key: value.numpy() for key, value in found.items()}


def test_a_run_is_close_to_one_without(secure):
    plain = secure(name="plain", secure_aggregation__enabled=False)
    fine = secure(name="fine", secure_aggregation__bits=30, secure_aggregation__clip=1.0)
    coarse = secure(name="coarse")
    for config in (plain, fine, coarse):
        summary = Experiment(config).run()
        assert (summary["failed"], summary["refused"], list(summary["clients"])) == (0, 0, list(CLIENTS))
    exact, rounded, crude = (adapter(config, 1) for config in (plain, fine, coarse))
    assert max(abs(exact[key] - rounded[key]).max() for key in exact) < 1e-7
    step = 0.05 / (4095 // 6)
    assert 0 < max(abs(exact[key] - crude[key]).max() for key in exact) <= step / 2 + 1e-7


def test_the_end_of_a_run_names_rounds_whose_sum_gave_no_adapter(secure):
    """Too late to stop the run, but its user must know that nothing was learned together."""
    config = secure(server__max_update=1e-9)
    summary = Experiment(config).run()
    assert summary["without_update"] == [1, 2]
    assert "Rounds after which the global adapter stayed as it was: FedDAT, seed 0" in " ".join(left_out([summary]))
    assert "server.max_update" in (config.run_dir / "log.jsonl").read_text()


@pytest.mark.slow
def test_worker_processes_have_the_same_numbers(secure):
    Experiment(secure(name="here")).run()
    Experiment(secure(name="beside")).run(jobs=2)
    here, beside = (alike(secure(name=name).run_dir) for name in ("here", "beside"))
    assert beside == here


def test_a_resumed_run_has_the_same_numbers(secure):
    Experiment(secure(name="here")).run()
    stopped = Experiment(secure(name="stopped"))

    def stop(event):
        if event["event"] == "round" and event["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop)
    stopped.run(resume=True)
    here, other = (alike(secure(name=name).run_dir) for name in ("here", "stopped"))
    assert other["states"] == here["states"]
    assert other["summary"]["clients"] == here["summary"]["clients"]


def test_the_same_settings_without_it_have_the_hash_that_they_always_had(make_config):
    from feddat.experiment.single.deciding import config_hash

    assert "secure_aggregation" not in json.dumps(make_config().model_dump(mode="json", exclude_defaults=True)), (
        "at its defaults it is no part of what decides"
    )
    assert config_hash(make_config()) != config_hash(make_config(secure_aggregation__bits=11))


REFUSED = {
    "server.rule fedmedian needs every client's own update": {"server__rule": "fedmedian"},
    "server.rule krum needs every client's own update": {"server__rule": "krum"},
    "server.weighting examples needs single updates": {"server__weighting": "examples"},
    "server.max_outlier compares single updates": {"server__max_outlier": 20.0},
    "method scaffold needs more from each client": {"method": "scaffold"},
    "method fedex-lora needs more from each client": {"method": "fedex-lora"},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_needs_single_updates_is_refused(secure, problem):
    with pytest.raises(ConfigError, match=re.escape(f"secure_aggregation.enabled: {problem}")) as error:
        Experiment(secure(**REFUSED[problem]))
    assert "\n" not in str(error.value)


def test_two_clients_are_refused(make_config):
    with pytest.raises(ConfigError, match="2 clients train in a round, expected at least 3"):
        Experiment(make_config(secure_aggregation__enabled=True)).run()
    with pytest.raises(ConfigError, match="1 clients train in a round, expected at least 3"):
        Experiment(make_config(secure_aggregation__enabled=True, server__fraction=0.5)).run()


def test_more_clients_than_the_ring_has_room_for_are_refused(secure):
    config = secure(secure_aggregation__bits=8)
    clients = {f"c{i}": next(iter(config.clients.values())) for i in range(50)}
    with pytest.raises(ConfigError, match=r"secure_aggregation.bits: 8 give each of 50 clients 2 levels"):
        Experiment(config.updated({"clients": clients})).run()


@pytest.mark.parametrize("method", ["local", "feddyn"])
def test_methods_that_go_with_it(secure, method):
    """A method that sends nothing has nothing to sum, and runs as usual."""
    summary = Experiment(secure(method=method, rounds=1)).run()
    assert summary["failed"] == summary["refused"] == 0


@pytest.mark.slow
def test_the_same_numbers_in_a_simulation(secure):
    Experiment(secure(name="here")).run()
    run_in(Experiment(secure(name="there", runtime__kind="simulation", runtime__actors=2)))
    here, there = (alike(secure(name=name).run_dir) for name in ("here", "there"))
    assert there == here


@pytest.mark.slow
def test_the_same_numbers_in_a_deployment(secure):
    """In a deployment, each client's key is certified, and the others know it by its certificate."""
    Experiment(secure(name="here")).run()
    run_in(Experiment(secure(name="there", runtime__kind="deployment")))
    here, there = (alike(secure(name=name).run_dir) for name in ("here", "there"))
    assert there == here
    channels = [json.loads(path.read_text()) for path in secure(name="there").run_dir.rglob("sum-channel.json")]
    assert len(channels) == 3 and all(len(channel["others"]) == 2 for channel in channels)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["share", "mask", "agree", "reveal"])
def test_a_server_killed_in_mid_round_ends_with_the_same_numbers(secure, tmp_path, step):
    """The process is killed when bob's answer to a step of round 2 arrives, and the run is resumed."""
    import subprocess
    import sys

    config = secure(name="killed", runs_dir=tmp_path / "runs")
    Experiment(secure(name="here", runs_dir=tmp_path / "runs")).run()
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    script = f"""
import os, signal
from feddat.app.secure_strategy import SecureStrategy
from feddat.config import load_config
from feddat.experiment import Experiment
take = SecureStrategy._exchange
def exchange(self, round, step, names, values, taken):
    def dying(name, message):
        if (round, step) == (2, {step!r}) and name == "bob":
            os.kill(os.getpid(), signal.SIGKILL)
        taken(name, message)
    take(self, round, step, names, values, dying)
SecureStrategy._exchange = exchange
Experiment(load_config({str(tmp_path / "config.yaml")!r})).run()
"""
    found = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert found.returncode == -signal.SIGKILL
    Experiment(config).run(resume=True)
    here, there = (alike(config.runs_dir / name) for name in ("here", "killed"))
    assert there["states"] == here["states"]
    assert there["summary"]["clients"] == here["summary"]["clients"]
