"""The same federation in Flower's deployment and simulation: SuperLink, SuperNodes and Ray on this machine.

The tests share one SuperLink, since it takes seconds to start.
"""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from clouds import alike, log_of, open_cloud

from feddat.deploy import pki
from feddat.deploy.folder import write_consortium
from feddat.deploy.launch import run_in, start_link
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment import Experiment
from two_clients import numbers


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with open_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


# Nodes that are not let in. They never receive a message.


def turned_away(cloud, name):
    cloud.wait(lambda: name in cloud.processes.ended(), 60)
    text = log_of(cloud, name)
    assert "Receiving" not in text
    assert "SuperNode ID" not in text
    return text


def test_an_unknown_key_is_refused(cloud, tmp_path):
    pki.write_key_pair(tmp_path, "node")
    pki.write_certificate(tmp_path / "ca.crt", pki.read_certificate(cloud.server.authority))
    cloud.node("stranger", place=tmp_path)
    assert "Failed to activate SuperNode" in turned_away(cloud, "stranger")


def test_a_server_with_another_authority_is_refused(cloud, tmp_path):
    for half in ("node.key", "node.pub"):
        (tmp_path / half).write_bytes((cloud.folder / "c" / "clients" / "ann" / half).read_bytes())
    pki.write_certificate(tmp_path / "ca.crt", pki.new_authority("someone else").certificate)
    cloud.node("wary", place=tmp_path)
    assert "CERTIFICATE_VERIFY_FAILED" in turned_away(cloud, "wary")


def test_plain_text_is_refused(cloud):
    place = cloud.folder / "c" / "clients" / "ann"
    arguments = ["--superlink", cloud.server.local_address, "--insecure", "--max-retries", "0"]
    arguments += ["--auth-supernode-private-key", str(place / "node.key")]
    arguments += ["--auth-supernode-public-key", str(place / "node.pub")]
    (port,) = free_ports(1)
    cloud.processes.start("plain", ["deploy", "node", str(port), *arguments], {"FLWR_HOME": str(cloud.folder / "p")})
    turned_away(cloud, "plain")


def test_an_expired_certificate_is_refused(cloud, tmp_path):
    (port,) = free_ports(1)
    server = write_consortium(tmp_path / "old", ["ann"], ["127.0.0.1"], port, server_days=0)
    with Processes(tmp_path / "logs") as processes:
        start_link(processes, server)
        cloud.wait(lambda: "Uvicorn running" in processes.log("superlink").read_text(), 60)
        cloud.node("punctual", place=tmp_path / "old" / "clients" / "ann", address=server.local_address)
        assert "certificate has expired" in turned_away(cloud, "punctual")


# A run over real nodes.


def test_the_same_numbers_as_in_one_process(cloud, make_config):
    config = make_config(threads=1)
    Experiment(config.updated({"name": "here"})).run()
    for name in ("ann", "bob"):
        cloud.node(name, client=name)
    config = config.updated({"name": "there"})
    run = cloud.start_run(config)
    folder = Experiment(config).folder
    cloud.wait(lambda: list(folder.checkpoints.glob("round-00001*")))
    assert cloud.wait(lambda: cloud.control.failure(run) is not None)
    assert cloud.control.failure(run) == ""
    here, there = (alike(config.runs_dir / name) for name in ("here", "there"))
    assert there == here
    # Ann's processes write her own log, which has her losses.
    lines = [json.loads(line) for line in cloud.log("ann").read_text().splitlines()]
    turns = [(line["event"], line["round"], line["client"]) for line in lines if line["event"] != "log"]
    rounds = [[(what, n, "ann") for what in ("asked", "fit", "asked", "eval")] for n in (1, 2)]
    assert turns == [*rounds[0], *rounds[1], ("asked", 2, "ann"), ("eval", 2, "ann")], "the last one on test data"
    assert lines[0]["message"].startswith("worker process ")
    assert len({line["pid"] for line in lines}) == 2, "the node's and its worker's"
    assert {"loss"} < lines[3]["metrics"].keys()


@pytest.mark.slow
def test_a_run_that_replaces_a_longer_one_is_followed_to_its_end(cloud, make_config):
    config = make_config(threads=1, name="again", rounds=3)
    Experiment(config).run()
    for name in {"ann", "bob"} - cloud.processes.running():  # if only this test is run
        cloud.node(name, client=name)
    config = config.updated({"rounds": 1, "runtime.kind": "deployment", "runtime.server": str(cloud.server.path)})
    events = []
    summary = run_in(Experiment(config), events.append, overwrite=True)
    assert summary["rounds"] == 1
    assert [kind for event in events if (kind := event["event"]) in ("start", "round", "done")] == [
        *("start", "round", "done")
    ]


def worked(pid):
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_worker_killed_at_work_costs_its_client_one_turn(cloud, make_config):
    if "ann" not in cloud.processes.running():  # if only this test is run
        for name in ("ann", "bob"):
            cloud.node(name, client=name)
    config = make_config(threads=1, rounds=3, name="killed", **{"train.epochs": 400})
    run = cloud.start_run(config)
    folder = Experiment(config).folder
    cloud.wait(lambda: list(folder.checkpoints.glob("round-00001*")))
    pid = int(re.findall(r"worker process (\d+)", log_of(cloud, "bob"))[-1])
    before = worked(pid)
    cloud.wait(lambda: worked(pid) > before + 0.3)  # it is at work; between its turns it is idle
    os.kill(pid, signal.SIGKILL)
    cloud.wait(lambda: cloud.control.failure(run) is not None)
    assert cloud.control.failure(run) == ""
    lines = folder.read_metrics()
    failed = [line["failed"] for line in lines if "failed" in line]
    assert failed == ["its worker process ended (exit code -9)"], log_of(cloud, "bob")[-2000:]
    trained = [line["round"] for line in lines if line.get("split") == "train" and line["client"] == "bob"]
    assert trained == [1, 3]
    assert folder.summary()["failed"] == 1
    told = [json.loads(line) for line in cloud.log("bob").read_text().splitlines()]
    assert [(line["round"], line["kind"], line["client"]) for line in told if line["event"] == "failed"] == [
        (2, "train", "bob")
    ]


@pytest.mark.slow  # Ray takes half a minute to start
@pytest.mark.parametrize("actors", [1, 2])
def test_the_same_numbers_in_a_simulation(make_config, actors):
    config = make_config(threads=1, name="here")
    Experiment(config).run()
    there = config.updated({"name": "there", "runtime.kind": "simulation", "runtime.actors": actors})
    events = []
    run_in(Experiment(there), events.append)
    assert [event["event"] for event in events][:3] == ["start", "fit", "fit"]
    here, there = (numbers(config.runs_dir / name) for name in ("here", "there"))
    del here["summary"]["world"]["data"]  # each actor checks its own client's data; the server has none
    assert there == here
