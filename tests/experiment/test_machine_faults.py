"""Failures of machines and connections below a deployment of real processes, and attacks from other accounts.

A connection stalls, processes are stopped or run out of memory, the SuperLink's disk is full or its database damaged,
clocks jump. Each costs time, one turn of a client, or a resumed run; completed rounds are kept.
"""

import os
import re
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml
from clouds import alike, has, lines, log_of, open_cloud
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

import feddat
from feddat.deploy.control import Control, app_project
from feddat.deploy.processes import free_ports
from feddat.experiment import Experiment
from feddat.experiment.serving.app_config import AppConfig, to_flat, to_toml

pytestmark = pytest.mark.slow


class Line:
    """A proxy between a node and the SuperLink that can stall: nothing is closed, and nothing gets through.

    Connections that were open during a stall stay dead afterwards, as if a firewall had forgotten them.
    """

    def __init__(self, to):
        self._to, self._listener = to, socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.still, self._links = threading.Event(), []
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        self.still.set()

    def go_on(self):
        self.still = threading.Event()

    def close(self):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            still = self.still
            try:
                other = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # the SuperLink is down
                one.close()
                continue
            self._links += [one, other]  # keep references, or Python would close them
            for source, sink in ((one, other), (other, one)):
                threading.Thread(target=self._pass_on, args=(source, sink, still), daemon=True).start()

    def _pass_on(self, source, sink, still):
        try:
            while data := source.recv(65536):
                if still.is_set():
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with open_cloud(tmp_path_factory.mktemp("machine")) as cloud:
        cloud.line = Line(cloud.server.port)
        cloud.node("ann", client="ann", heartbeat=10)
        cloud.node("bob", client="bob", heartbeat=10, address=f"127.0.0.1:{cloud.line.port}")
        yield cloud
        cloud.line.close()


@pytest.fixture
def undisturbed(make_config):
    """Complete a run in this process, and return its settings under another name."""
    config = make_config(threads=1, rounds=4)
    Experiment(config.updated({"name": "here"})).run()
    return config.updated({"name": "there"})


def same_in_the_end(config):
    here, there = (alike(config.runs_dir / name) for name in ("here", "there"))
    assert there["states"] == here["states"]
    assert there["summary"]["clients"] == here["summary"]["clients"]


def worker(cloud, name):
    """Return the id of the process in which a client works."""
    return int(re.findall(r"worker process (\d+)", cloud.wait(lambda: log_of(cloud, name)))[-1])


def limit(pid, kind, most):
    """Set the soft limit of a process; return the limits before."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    return before


def until(cloud, run, done):
    """Wait until ``done`` returns something true; fail if the run ends before."""
    cloud.wait(lambda: done() or cloud.control.failure(run) is not None)
    assert done(), cloud.control.failure(run)


def end_with_refused(cloud, run):
    """Wait for a run to end, and restart nodes that are refused; return why it failed, or an empty string."""
    cloud.wait(lambda: cloud.start_refused_again() or cloud.control.failure(run) is not None)
    return cloud.end_of(run)


def told(folder, **fields):
    return [line for line in lines(folder.log_file) if fields.items() <= line.items()]


def test_a_line_that_stands_still_costs_time_alone(cloud, undisturbed):
    config = undisturbed.updated({"server.min_clients": 2, "server.wait": 300})
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    until(cloud, run, lambda: has(folder.log_file, event="asked", kind="train", round=2))
    cloud.line.stop()
    until(cloud, run, lambda: "waiting up to 300 s, then the round begins again" in folder.log_file.read_text())
    cloud.line.go_on()
    assert cloud.end_of(run) == ""
    (lost,) = told(folder, event="failed")
    assert (lost["client"], lost["round"]) == ("bob", 2)
    assert lost["reason"] == "its node has gone: two heartbeats without a sign of life"
    same_in_the_end(config)


def test_a_client_stopped_for_longer_than_the_deadline_misses_that_turn_alone(cloud, make_config):
    config = make_config(threads=1, rounds=4, name="stopped", **{"server.deadline": 45, "train.epochs": 100})
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    until(cloud, run, lambda: has(folder.log_file, event="asked", kind="train", round=2))
    pid = worker(cloud, "bob")
    os.kill(pid, signal.SIGSTOP)
    until(cloud, run, lambda: has(folder.log_file, event="failed", client="bob", round=2))
    os.kill(pid, signal.SIGCONT)
    assert cloud.end_of(run) == ""
    assert told(folder, event="failed", round=2)[0]["reason"].startswith("has not answered within 45 s")
    trained = [line["round"] for line in told(folder, event="fit", client="ann")]
    assert trained == [1, 2, 3, 4]
    assert "bob" in folder.summary()["clients"], "it is there at the end"


def test_a_worker_without_memory_misses_that_turn_alone(cloud, make_config):
    config = make_config(threads=1, rounds=4, name="memory", **{"train.epochs": 200})
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    until(cloud, run, lambda: list(folder.checkpoints.glob("round-00001*")))
    pid = worker(cloud, "bob")
    before = limit(pid, resource.RLIMIT_AS, 2**20)
    until(cloud, run, lambda: has(folder.log_file, event="failed", client="bob"))
    if Path(f"/proc/{pid}").exists():
        limit(pid, resource.RLIMIT_AS, before[0])
    assert cloud.end_of(run) == ""
    (lost, *_) = told(folder, event="failed", client="bob")
    assert re.search(r"memory|worker process ended|alloc", lost["reason"], re.IGNORECASE), lost["reason"]
    assert [line["round"] for line in told(folder, event="fit", client="ann")] == [1, 2, 3, 4]
    assert told(folder, event="fit", client="bob")[-1]["round"] == 4, "it is back"


def test_a_disk_that_is_full_below_the_superlink_loses_nothing(cloud, undisturbed):
    config = undisturbed
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    until(cloud, run, lambda: list(folder.checkpoints.glob("round-00001*")))
    pid = cloud.processes._running["superlink"].pid
    before = limit(pid, resource.RLIMIT_FSIZE, 0)
    time.sleep(5)
    limit(pid, resource.RLIMIT_FSIZE, before[0])
    if end := cloud.end_of(run):  # the run was sending a message when the disk was full
        assert "\n" not in end
        run = cloud.start_run(config, resume=True)
        assert cloud.end_of(run) == ""
    assert "the database works again" in cloud.wait(lambda: log_of(cloud, "superlink"))
    same_in_the_end(config)


def test_a_database_that_is_damaged_is_put_aside_and_the_run_goes_on(cloud, undisturbed):
    config = undisturbed
    folder = Experiment(config).folder
    run = cloud.start_run(config)
    until(cloud, run, lambda: list(folder.checkpoints.glob("round-00002*")))
    cloud.processes.kill("superlink")
    state = cloud.server.path / "state"
    for end in ("-wal", "-shm"):
        (state / f"superlink.db{end}").unlink(missing_ok=True)
    (state / "superlink.db").write_bytes(b"\x17" * 50_000)
    cloud.start_link()
    assert re.search(
        r"superlink\.db: file is not a database; moved aside as superlink\.db\.damaged-\w+\. Runs are kept in their "
        "folders: resume them",
        log_of(cloud, "superlink"),
    )
    run = cloud.start_run(config, resume=True)
    assert end_with_refused(cloud, run) == "", "a node that asked before its key was let in again was turned away"
    same_in_the_end(config)


def test_a_second_server_over_one_state_folder_is_refused(cloud):
    (port,) = free_ports(1)
    arguments = cloud.server.link_arguments()
    arguments[arguments.index("--port") + 1] = str(port)
    cloud.processes.start("second", ["deploy", "link", *arguments])
    cloud.wait(lambda: "second" in cloud.processes.ended(), 100)
    cloud.processes.stop("second")
    told = log_of(cloud, "second").strip().splitlines()
    assert re.search(r"state folder \S+/state: another server is using it; stop that one first", told[-1]), told
    assert "Traceback" not in log_of(cloud, "second")
    cloud.control.wait(10)


JUMPING_CLOCK = """
import datetime, pathlib

class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        seconds = float(pathlib.Path({file!r}).read_text())
        return super().now(tz) + datetime.timedelta(seconds=seconds)

datetime.datetime = Jumping
"""


def test_clocks_that_jump_in_a_round_cost_time_alone(cloud, undisturbed, tmp_path):
    """While a node's clock is an hour ahead, its signatures are refused and its log says why."""
    config = undisturbed.updated({"server.min_clients": 2, "server.wait": 300})
    folder = Experiment(config).folder
    clock = tmp_path / "clock"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK.format(file=str(clock)))
    place = cloud.folder / "c" / "clients" / "bob"
    site = yaml.safe_load((place / "client.yaml").read_text())
    site |= {"server": cloud.server.local_address, "data": dict(config.clients["bob"]), "heartbeat": 10, "threads": 1}
    site["model"] = str(Path(config.model).resolve())
    site["policy"] |= {"approval": "first-use", "min_examples": 1, "min_questions": 1, "guarded_steps": False}
    site["policy"]["bounds"] |= {"train.steps": [1, 1000], "train.batch_size": [1, 100]}
    (site["node_port"],) = free_ports(1)
    (place / "client.yaml").write_text(yaml.safe_dump(site))
    cloud.processes.kill("bob")
    path = os.pathsep.join([str(tmp_path), str(Path(feddat.__file__).parents[1])])
    home = {"FLWR_HOME": str(tmp_path / "home"), "PYTHONPATH": path}
    cloud.processes.start("clock", ["deploy", "client", str(place)], home)
    try:
        run = cloud.start_run(config)
        until(cloud, run, lambda: has(folder.log_file, event="asked", kind="train", round=2))
        clock.write_text("3600")
        cloud.wait(
            lambda: re.search(r"not let in by \S+: clock: 36\d\d s ahead of the server's", log_of(cloud, "clock"))
        )
        clock.write_text("0")
        assert cloud.end_of(run) == ""
    finally:
        cloud.processes.kill("clock")
        cloud.node("bob", client="bob", heartbeat=10, address=f"127.0.0.1:{cloud.line.port}")
    here, there = (Experiment(config.updated({"name": name})).folder.summary() for name in ("here", "there"))
    assert there["clients"] == here["clients"]


# Other accounts of the machine, which can connect to every port on its loopback address.


def taker(address, authority):
    """Return a client of the Runtime API like those of Flower's own processes, but without the secret."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=authority is None,
        root_certificates=None if authority is None else authority.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
        retry_invoker=None,
    )


def test_another_account_starts_no_run_and_takes_no_task(cloud, undisturbed, tmp_path):
    config, server = undisturbed.updated({"server.min_clients": 2, "server.wait": 300}), cloud.server
    thief = Control(server.local_address, server.authority, tmp_path)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        thief.start_run({}, app_project(to_toml(to_flat(AppConfig(config)))))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        thief.failure(1)
    (tmp_path / "control.token").write_bytes(b"\0" * 32)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        thief.start_run({}, app_project(to_toml(to_flat(AppConfig(config)))))
    for name in ("control.token", "tasks.secret"):
        assert (server.path / "state" / name).stat().st_mode & 0o777 == 0o600

    # During a run, the other account asks for tasks far more often than their owners do.
    command = Path(f"/proc/{cloud.processes._running['ann'].pid}/cmdline").read_text().split("\0")
    node = next(int(word) for word in command if word.isdigit())
    refused, taken, over = [], [], threading.Event()

    def steal(client, kind):
        while not over.is_set():
            try:
                found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
                if found.token:
                    taken.append(found)
            except httpx.HTTPStatusError as error:
                refused.append(error.response.status_code)
            except httpx.HTTPError:
                pass
            time.sleep(0.02)

    thieves = [
        threading.Thread(target=steal, args=(taker(server.local_address, server.authority), TaskType.SERVER_APP)),
        threading.Thread(target=steal, args=(taker(f"127.0.0.1:{node}", None), TaskType.CLIENT_APP)),
    ]
    for thread in thieves:
        thread.start()
    try:
        run = cloud.start_run(config)
        assert end_with_refused(cloud, run) == "", "bob is new, and its key still in use for some seconds"
    finally:
        over.set()
        for thread in thieves:
            thread.join()
    assert not taken
    assert set(refused) == {401}
    assert len(refused) > 20
    same_in_the_end(config)
