"""A consortium run with the real commands, as hospitals would use them, under the usual umask of 022.

The clients make their own keys. During one run, one client is revoked, another joins, a third renews its key, and the
server renews its certificate, all without restarts. Other users of the machine can read none of the files.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from clouds import has, lines

from feddat.deploy.processes import Processes, free_ports
from two_clients import SIZES

pytestmark = pytest.mark.slow  # a SuperLink, three nodes and a run take a minute or two
ROUNDS = 12
PASSPHRASE = "correct horse battery"


class Consortium:
    """What the administrators do, each in their own folder."""

    def __init__(self, folder, world, processes):
        self.folder, self.world, self.processes = folder, world, processes
        self.port, *self.node_ports = free_ports(4)
        self.server, self.authority = folder / "c" / "server", folder / "stick"
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.passphrase.chmod(0o600)
        self.said = {}

    def feddat(self, *arguments, code=0):
        """Run a command; return its standard output and standard error."""
        command = [sys.executable, "-m", "feddat.cli", *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, stdin=subprocess.DEVNULL)
        assert ended.returncode == code, (command, ended.stdout, ended.stderr)
        return ended.stdout + ended.stderr

    def init(self):
        """Set up the server with the settings of this test."""
        self.said["init"] = self.feddat(
            *("deploy", "init", "--host", "127.0.0.1", "--port", self.port, "--model", self.world / "model"),
            *("-o", "c", "--authority", self.authority, "--ca-passphrase-file", self.passphrase),
        )
        path = self.server / "run.yaml"
        settings = yaml.safe_load(path.read_text())
        settings |= {"rounds": ROUNDS, "threads": 1, "runs_dir": str(self.server / "runs")}
        settings["server"] |= {"min_clients": 2, "wait": 900.0, "deadline": 900}
        settings["runtime"]["server"] = str(self.server)
        settings["train"] = {"lr": 0.01}
        settings["eval"] = {"every": ROUNDS}
        path.write_text(yaml.safe_dump(settings))

    def join(self, name, data):
        """Make a client's key and folder, and fill in its client.yaml."""
        told = re.search(r"authority's fingerprint: (\w+)", self.said["init"])[1]
        said = self.feddat("deploy", "join", "c/invitation.json", "--name", name, "--fingerprint", told)
        self.said[name] = re.search(r"this client's fingerprint: (SHA256:\S+)", said)[1]
        path = self.folder / name / "client.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["data"] = {split: str(self.world / data / f"{split}.jsonl") for split in SIZES}
        settings |= {"node_port": self.node_ports.pop(), "threads": 1, "heartbeat": 10}
        settings["model"] = str(self.world / "model")
        settings["policy"] |= {"approval": "first-use", "min_examples": 10, "min_questions": 3, "guarded_steps": False}
        settings["policy"]["bounds"]["train.steps"] = [1, 10]
        path.write_text(yaml.safe_dump(settings))

    def admit(self, name, *options, code=0):
        """Admit a client, and return what the command says."""
        return self.feddat("deploy", "admit", f"{name}/{name}.csr", "-f", self.server, *options, code=code)

    def start(self, name):
        """Start a client's node."""
        place = self.folder / name
        self.processes.start(name, ["deploy", "client", str(place)], {"FLWR_HOME": str(place / "flwr")})

    def trained(self, name):
        """Return the rounds in which a client has trained."""
        fits = [line for line in lines(self.run / "log.jsonl") if line["event"] == "fit" and line["client"] == name]
        return [line["round"] for line in fits]

    @property
    def run(self):
        return self.server / "runs" / "first"

    def wait(self, done, seconds=600):
        """Wait until ``done`` returns something true, and return it."""
        end = time.monotonic() + seconds
        while not (found := done()):
            logs = (f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted((self.folder / "logs").iterdir()))
            assert time.monotonic() < end, "\n".join(logs)
            time.sleep(0.1)
        return found

    def log(self, name):
        return self.processes.log(name).read_text()

    def certificate(self):
        """Return the hash of the certificate that the server presents."""
        context = ssl.create_default_context(cafile=str(self.server / "ca.crt"))
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return sha256(secured.getpeercert(binary_form=True)).hexdigest()


@pytest.fixture(scope="module")
def consortium(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    before = os.umask(0o022)
    try:
        with Processes(folder / "logs") as processes:
            yield through_it_all(Consortium(folder, world, processes))
    finally:
        os.umask(before)


def through_it_all(c):
    c.init()
    for name, data in (("ann", "ann"), ("bob", "bob"), ("carl", "bob")):
        c.join(name, data)
    c.processes.start("server", ["deploy", "server", str(c.server)])
    c.wait(lambda: "Uvicorn running" in c.log("server"))
    c.start("ann")
    c.wait(lambda: "not let in by the server" in c.log("ann"))  # its key is not admitted yet; it tries again
    for name in ("ann", "bob"):
        c.admit(name, "--fingerprint", c.said[name])
    c.start("bob")
    c.processes.start("run", ["run", "-c", str(c.server / "run.yaml")])
    c.wait(lambda: c.trained("ann") and c.trained("bob"))

    c.said["revoked"] = c.feddat("deploy", "revoke", "bob", "-f", c.server)
    c.wait(lambda: has(c.run / "log.jsonl", event="failed", client="bob") or "not let in by the server" in c.log("bob"))
    # Ann alone is too few: the run waits for another client. The server renews its certificate, and ann her key.
    before = c.certificate()
    c.feddat(
        *("deploy", "renew", c.server, "--authority", c.authority, "--ca-passphrase-file", c.passphrase),
    )
    c.wait(lambda: c.certificate() != before, 120)
    c.said["old"] = (c.folder / "ann" / "node.pub").read_text().split()[1]
    c.feddat("deploy", "renew", "ann")
    c.said["new"] = c.admit("ann")  # signed by the old key: nobody has to compare fingerprints
    c.wait(lambda: "the server accepts the new key" in c.log("ann"))
    c.admit("carl", "--fingerprint", c.said["carl"])
    c.start("carl")
    c.wait(lambda: "run" in c.processes.ended(), 1200)
    assert c.processes.ended()["run"] == 0, c.log("run")
    return c


def test_the_run_ends_with_those_who_are_in(consortium):
    summary = json.loads((consortium.run / "summary.json").read_text())
    assert summary["rounds"] == ROUNDS
    assert set(summary["clients"]) == {"ann", "carl"}
    assert summary["missing"] == ["bob"]


def test_who_was_revoked_takes_no_more_part(consortium):
    assert "is revoked; its key SHA256:" in consortium.said["revoked"]
    bob, carl = consortium.trained("bob"), consortium.trained("carl")
    assert bob == list(range(1, len(bob) + 1)) and len(bob) < ROUNDS
    assert carl == list(range(carl[0], ROUNDS + 1)) and bob[-1] <= carl[0]
    assert set(consortium.trained("ann")) == set(range(1, ROUNDS + 1)), "also after she changed her key"
    states = list((consortium.folder / "bob" / "state").rglob("*.safetensors"))
    assert states, "what is bob's stays with bob"


def test_another_key_does_not_get_a_name(consortium):
    c = consortium
    c.feddat("deploy", "renew", "bob")
    fingerprint = re.search(r"SHA256:\S+", c.feddat("deploy", "renew", "bob"))[0]
    said = c.admit("bob", "--fingerprint", fingerprint, code=2)
    assert "client bob: was revoked; if it is the same institution, --again gives the name another key" in said
    said = c.feddat("deploy", "join", "c/invitation.json", "--name", "ann", "-o", "eve", "--fingerprint", "0", code=2)
    assert "the authority: the fingerprint is " in said and "do not trust this file" in said
    told = re.search(r"authority's fingerprint: (\w+)", c.said["init"])[1]
    said = c.feddat("deploy", "join", "c/invitation.json", "--name", "ann", "-o", "eve", "--fingerprint", told)
    eves = re.search(r"SHA256:\S+", said)[0]
    said = c.feddat("deploy", "admit", "eve/ann.csr", "-f", c.server, "--fingerprint", eves, code=2)
    assert "client ann: has another key, SHA256:" in said
    listed = json.loads(c.feddat("deploy", "members", "-f", c.server, "--json"))
    assert set(listed["clients"]) == {"ann", "carl"} and set(listed["revoked"]) == {"ann", "bob"}


def test_a_client_that_changed_its_key_has_no_other(consortium):
    place = consortium.folder / "ann"
    assert "client ann has a new key; the old one is revoked" in consortium.said["new"]
    assert sorted(path.name for path in place.glob("node*")) == ["node.key", "node.pub"]
    assert (place / "node.pub").read_text().split()[1] != consortium.said["old"]


def test_the_authoritys_key_is_encrypted_and_elsewhere(consortium):
    assert "ENCRYPTED" in (consortium.authority / "ca.key").read_text()
    assert not list((consortium.folder / "c").rglob("ca.key"))


def test_others_on_the_machine_can_read_none_of_it(consortium):
    c = consortium
    places = [c.folder / name for name in ("c", "stick", "ann", "bob", "carl")]
    found = [path for place in places for path in (place, *place.rglob("*")) if not path.is_symlink()]
    kinds = {path.suffix for path in found}
    assert {".db", ".key", ".safetensors", ".jsonl", ".json", ".html", ".yaml"} <= kinds
    assert any(".policy" in path.parts for path in found)
    assert [f"{path}: {path.stat().st_mode & 0o777:o}" for path in found if path.stat().st_mode & 0o077] == []


def test_this_test_would_see_an_open_file(consortium):
    probe = consortium.folder / "probe"
    subprocess.run(["touch", str(probe)], check=True)
    assert Path(probe).stat().st_mode & 0o077 == 0o044
