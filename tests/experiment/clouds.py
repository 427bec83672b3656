"""A SuperLink with TLS and keys, and SuperNodes, as processes on this machine; shared by the tests of deployments."""

import json
import time
from collections import defaultdict
from contextlib import contextmanager

from feddat.deploy.control import Control, app_project, let_in
from feddat.deploy.folder import node_arguments, write_consortium
from feddat.deploy.launch import start_link
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment.serving.app_config import AppConfig, to_flat, to_toml
from two_clients import numbers


def alike(folder):
    """Return all numbers that must be equal.

    Sample answers and facts about the data are left out: they exist only where the server's machine has the data.
    """
    (folder / "predictions.json").write_text("[]")
    found = numbers(folder)
    found["summary"].pop("data", None)
    found["summary"]["world"].pop("data", None)
    return found


def lines(path):
    """Return the complete lines of a log; none if the file does not exist yet."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def has(path, **fields):
    """Return whether a log has a line with these fields."""
    return any(fields.items() <= line.items() for line in lines(path))


def log_of(cloud, name):
    """Return what a process has printed."""
    path = cloud.processes.log(name)
    return path.read_text() if path.exists() else ""


class Cloud:
    """A consortium of ann and bob with a running SuperLink.

    Attributes:
        folder: the folder of all files.
        server: the server's folder in it.
        processes: the running processes.
        control: a client of the SuperLink's Control API.
    """

    def __init__(self, folder, processes):
        self.folder, self.processes = folder, processes
        link, *free = free_ports(20)
        self._ports = defaultdict(free.pop)
        self.server = write_consortium(folder / "c", ["ann", "bob"], ["127.0.0.1"], link)
        self.control = None
        self._nodes = {}
        self.start_link()

    def start_link(self):
        """Start the SuperLink, wait until it answers, and register the clients' keys."""
        if self.control is not None:
            self.control.close()
        start_link(self.processes, self.server)
        self.control = Control(self.server.local_address, self.server.authority)
        self.control.wait(120)
        let_in(self.control, self.server)

    def node(self, name, client="ann", place=None, address=None, heartbeat=30):
        """Start a node."""
        self._nodes[name] = (client, place, address, heartbeat)
        place = place or self.folder / "c" / "clients" / client
        arguments = ["--log-file", str(self.log(name)), "--heartbeat", str(heartbeat)]
        arguments += node_arguments(place, address or self.server.local_address, client)
        home = {"FLWR_HOME": str(self.folder / "homes" / name)}
        self.processes.start(name, ["deploy", "node", str(self._ports[name]), *arguments], home)

    def start_refused_again(self):
        """Restart the nodes that have ended because the server refused them; `deploy client` does so by itself."""
        for name in self._nodes.keys() & self.processes.ended().keys():
            self.processes.stop(name)
            self.node(name, *self._nodes[name])

    def log(self, name):
        """Return the path of a node's log."""
        return self.folder / "state" / f"{name}.jsonl"

    def start_run(self, config, **options):
        """Start a run and return its number."""
        config = config.updated({"runs_dir": str(config.runs_dir.resolve())})
        return self.control.start_run({}, app_project(to_toml(to_flat(AppConfig(config, **options)))))

    def end_of(self, run):
        """Wait for a run to end; return why it failed, or an empty string if it succeeded."""
        self.wait(lambda: self.control.failure(run) is not None)
        return self.control.failure(run)

    def wait(self, done, seconds=400):
        """Wait until ``done`` returns something true, and return it."""
        end = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < end, "\n".join(
                f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted((self.folder / "logs").iterdir())
            )
            time.sleep(0.05)
        return found


@contextmanager
def open_cloud(folder):
    """Start a cloud, and end all of its processes on exit."""
    with Processes(folder / "logs") as processes:
        cloud = Cloud(folder, processes)
        yield cloud
        cloud.control.close()
