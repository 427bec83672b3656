"""Failures in a real deployment: killed processes, full disks, missing nodes, wrong clocks. Completed rounds are kept.

These tests start dozens of processes and take minutes (`make test-slow`).
"""

import os
import re
import resource
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from clouds import alike, has, lines, log_of, open_cloud
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import feddat
from feddat.client.store import PersonalStore
from feddat.deploy import pki
from feddat.deploy.check import check_server
from feddat.deploy.folder import write_consortium
from feddat.deploy.launch import start_link
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment import Experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with open_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        for name in ("ann", "bob"):
            cloud.node(name, client=name, heartbeat=10)
        yield cloud


def full_disk(pid, is_full=True):
    """Make a process's writes to files fail, as on a full disk, or allow them again; this needs no root rights."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if is_full else hard, hard))


def server_app(folder):
    """Return the id of the process that serves a run."""
    return [line["pid"] for line in lines(folder.log_file) if line["event"] == "start"][-1]


def restart(cloud, config):
    """Kill the SuperLink and the processes below it, start it again, and resume the run."""
    cloud.processes.kill("superlink")
    cloud.start_link()
    return cloud.start_run(config, resume=True)


def trained(folder, client):
    """Return the rounds in which a client has trained."""
    found = [line for line in folder.read_metrics() if line.get("split") == "train" and line["client"] == client]
    return [line["round"] for line in found]


def test_a_server_killed_at_any_moment_ends_with_the_same_numbers(cloud, make_config):
    config = make_config(threads=1, rounds=5)
    Experiment(config.updated({"name": "here"})).run()
    config = config.updated({"name": "there"})
    folder = Experiment(config).folder
    cloud.start_run(config)

    # Kill the SuperLink in the middle of a round.
    cloud.wait(lambda: has(folder.log_file, event="fit", round=2))
    run = restart(cloud, config)
    assert not has(folder.log_file, event="round", round=2)

    # Kill the SuperLink when a round has just ended.
    cloud.wait(lambda: list(folder.checkpoints.glob("round-00003*")))
    run = restart(cloud, config)

    # Kill only the server app, while clients are evaluated.
    cloud.wait(lambda: has(folder.log_file, event="asked", kind="evaluate", round=4))
    os.kill(server_app(folder), signal.SIGKILL)
    run = cloud.start_run(config, resume=True)

    # Its disk fills up in the last round.
    cloud.wait(lambda: has(folder.log_file, event="asked", kind="train", round=5))
    full_disk(server_app(folder))
    told = cloud.end_of(run)
    assert re.search(r"there/\S+: File too large; the files written so far are kept, and the run", told), told
    assert folder.summary() is None

    run = cloud.start_run(config, resume=True)
    assert cloud.end_of(run) == ""
    begun = [line["round"] for line in lines(folder.log_file) if line["event"] == "start"]
    assert begun == [0, 1, 3, 3, 4], "gone on after these rounds"
    here, there = (alike(config.runs_dir / name) for name in ("here", "there"))
    assert there == here


def test_a_node_too_few_is_waited_for_then_the_run_stops_and_can_be_resumed(cloud, make_config):
    config = make_config(threads=1, rounds=4)
    Experiment(config.updated({"name": "here"})).run()
    config = config.updated({"name": "there", "server.min_clients": 2, "server.wait": 5})
    folder = Experiment(config).folder

    # Bob's node disappears in the middle of round 2, and the wait for it ends.
    run = cloud.start_run(config)
    cloud.wait(lambda: has(folder.log_file, event="asked", kind="train", round=2))
    cloud.processes.kill("bob")
    told = cloud.end_of(run)
    kept = "all results so far are kept, and the run can be resumed"
    assert f"round 2: 1 of at least 2 clients connected after 5 s (ann); {kept}" in told
    assert [path.name for path in folder.checkpoints.glob("round-*")] == ["round-00001"]

    # It is back; in round 3 it disappears and comes back in time.
    cloud.node("bob", client="bob", heartbeat=10)
    config = config.updated({"server.wait": 200})
    run = cloud.start_run(config, resume=True)
    cloud.wait(lambda: has(folder.log_file, event="asked", kind="train", round=3))
    cloud.processes.kill("bob")
    cloud.wait(lambda: "waiting up to 200 s, then the round begins again" in folder.log_file.read_text())
    cloud.node("bob", client="bob", heartbeat=10)
    assert cloud.end_of(run) == ""
    assert (trained(folder, "ann"), trained(folder, "bob")) == ([1, 2, 3, 3, 4], [1, 2, 3, 4])
    summary = folder.summary()
    assert summary["failed"] == 1
    here, there = (alike(config.runs_dir / name) for name in ("here", "there"))
    assert there["states"] == here["states"]
    assert there["summary"]["clients"] == here["summary"]["clients"]


def test_a_client_whose_disk_is_full_misses_that_turn_alone(cloud, make_config):
    config = make_config(threads=1, rounds=3, name="full", **{"train.epochs": 200})
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    log = cloud.log("bob")
    cloud.wait(lambda: list(folder.checkpoints.glob("round-00001*")))
    worker = int(re.findall(r"worker process (\d+)", log.read_text())[-1])
    full_disk(worker)
    cloud.wait(lambda: has(folder.log_file, event="failed", client="bob", round=2))
    store = PersonalStore(folder.clients, "bob")
    assert store.rounds() == [1]
    assert store.read(1) is not None, "what was there is whole"
    full_disk(worker, is_full=False)
    assert cloud.end_of(run) == ""
    failed = [line["failed"] for line in folder.read_metrics() if "failed" in line]
    place = re.escape(str(folder.clients / "bob" / "round-0002.safetensors"))
    assert re.fullmatch(rf"StoreError: client bob: cannot write personal state {place}: File too large; .*", failed[0])
    assert trained(folder, "bob") == [1, 3]
    assert trained(folder, "ann") == [1, 2, 3]
    assert store.read(3)[2]["previous"] == 1, "it went on from its state of round 1"


# Clocks. A patched ``datetime`` gives one process a wrong clock, which Flower and this package read.

WRONG_CLOCK = """
import datetime

class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds={seconds})

datetime.datetime = Wrong
"""


@pytest.fixture
def client(cloud, world):
    """Ann's client folder, filled in."""
    place = cloud.folder / "c" / "clients" / "ann"
    site = yaml.safe_load((place / "client.yaml").read_text())
    site["server"] = cloud.server.local_address
    site["data"] = {split: str(world / "ann" / f"{split}.jsonl") for split in ("train", "validation", "test")}
    (site["node_port"],) = free_ports(1)
    (place / "client.yaml").write_text(yaml.safe_dump(site))
    return place


@pytest.mark.parametrize(("seconds", "way"), [(60, "ahead of"), (-400, "behind")])
def test_a_node_whose_clock_is_wrong_is_told_so(cloud, client, tmp_path, seconds, way):
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK.format(seconds=seconds))
    path = os.pathsep.join([str(tmp_path), str(Path(feddat.__file__).parents[1])])
    name = f"clock{seconds}"
    home = {"FLWR_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    cloud.processes.start(name, ["deploy", "client", str(client)], home)
    pattern = rf"not let in by 127\.0\.0\.1:\d+: clock: (\d+) s {way} the server's, .*set the clock \(NTP\)"
    found = cloud.wait(lambda: re.search(pattern, log_of(cloud, name)))
    cloud.processes.kill(name)
    assert abs(int(found[1]) - abs(seconds)) <= 2
    assert "SuperNode ID" not in log_of(cloud, name)


def test_a_certificate_that_is_not_good_yet_is_refused_and_named(tmp_path):
    """The certificate is made as if the clock of the machine that signs it were ahead."""
    (port,) = free_ports(1)
    server = write_consortium(tmp_path / "early", ["ann"], ["127.0.0.1"], port)
    key = load_pem_private_key((tmp_path / "early" / "authority" / "ca.key").read_bytes(), None)
    authority = pki.Authority(pki.read_certificate(server.authority), key)
    tomorrow = datetime.now(UTC) + timedelta(days=2)
    certificate, key = pki.server_certificate(authority, ["127.0.0.1"], now=tomorrow)
    pki.write_certificate(server.path / "server.crt", certificate)
    pki.write_private_key(server.path / "server.key", key)
    place = tmp_path / "early" / "clients" / "ann"
    with Processes(tmp_path / "logs") as processes:
        start_link(processes, server)
        while "Uvicorn running" not in (text := processes.log("superlink").read_text()):
            assert "superlink" not in processes.ended(), text
        found = {finding.what: finding.found for finding in check_server(place, server.local_address)}
        assert found["server"] == f"127.0.0.1:{port}: its certificate is refused: certificate is not yet valid"
        processes.start("ann", ["deploy", "client", str(place)], {"FLWR_HOME": str(tmp_path / "home")})
        while "not let in by 127" not in (text := processes.log("ann").read_text()):
            assert "ann" not in processes.ended(), text
        assert f"not let in by 127.0.0.1:{port}: server: {found['server']}" in text
        assert "SuperNode ID" not in text
