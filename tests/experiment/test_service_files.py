"""systemd accepts the units that ``deploy init`` writes, and a whole run works within their limits."""

import json
import os
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from feddat.deploy.control import Control
from feddat.deploy.folder import write_consortium
from feddat.deploy.processes import free_ports, search_path
from two_clients import SIZES

NAMES = ("ann", "bob")
FEDDAT = Path(sys.executable).parent / "feddat"


def service(place):
    """Return the ``[Service]`` settings of the unit in a folder, with the paths of this machine."""
    (file,) = place.glob("*.service")
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(file.read_text())
    settings = dict(unit["Service"])
    home = Path(settings["WorkingDirectory"])
    here = {str(home): str(place), str(home.parent / "venv/bin/feddat"): str(FEDDAT)}
    return {key: " ".join(here.get(word, word) for word in value.split()) for key, value in settings.items()}


@contextmanager
def running(place, log):
    """Run a unit's command as systemd would: only system folders in ``PATH``, no home, and one writable folder."""
    settings = service(place)
    assert settings["ProtectSystem"] == "strict"
    script = (
        f"mount --bind {settings['ReadWritePaths']} {settings['ReadWritePaths']} && mount -o remount,ro,bind / && "
        f"cd {settings['WorkingDirectory']} && exec {settings['ExecStart']}"
    )
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fill_in(place, sets, port):
    """Fill in the client.yaml in a folder."""
    path = place / "client.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["data"] = {split: str(file) for split, file in sets.items()}
    settings["policy"] |= {"approval": "first-use", "min_examples": 10, "min_questions": 3, "guarded_steps": False}
    settings["policy"]["bounds"]["train.steps"] = [1, 10]
    path.write_text(yaml.safe_dump(settings | {"node_port": port, "threads": 1}))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    server = write_consortium(tmp_path / "c", NAMES, ["127.0.0.1"], 9092)
    places = [server.path, *(server.path.parent / "clients" / name for name in NAMES)]
    for place in places:
        (file,) = place.glob("*.service")
        file.write_text(file.read_text().replace("/srv/feddat/venv/bin/feddat", "/bin/true"))
        found = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60)
        assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_a_run_within_the_limits_of_the_units(world, tmp_path):
    if subprocess.run(["unshare", "-m", "mount", "-o", "remount,ro,bind", "/"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    link, *ports = free_ports(3)
    server = write_consortium(tmp_path / "c", NAMES, ["127.0.0.1"], link)
    settings = yaml.safe_load((server.path / "run.yaml").read_text())
    (server.path / "run.yaml").write_text(yaml.safe_dump(settings | {"rounds": 1, "threads": 1}))
    with running(server.path, tmp_path / "server.log"):
        control = Control(server.local_address, server.authority)
        control.wait(120)
        control.close()
        ann, bob = (server.path.parent / "clients" / name for name in NAMES)
        for place, port in zip((ann, bob), ports, strict=True):
            fill_in(place, {split: world / place.name / f"{split}.jsonl" for split in SIZES}, port)
        with running(ann, tmp_path / "ann.log"), running(bob, tmp_path / "bob.log"):
            subprocess.run([FEDDAT, "run", "-c", "run.yaml"], cwd=server.path, check=True, timeout=300)
    summary = json.loads((server.path / "runs/first/summary.json").read_text())
    assert (summary["rounds"], summary["failed"]) == (1, 0)
    assert all(list((place / "state").rglob("*.safetensors")) for place in (ann, bob))


def test_programs_of_the_package_come_first_on_the_path():
    assert search_path(None) == str(FEDDAT.parent)
    assert search_path("/usr/bin").split(os.pathsep) == [str(FEDDAT.parent), "/usr/bin"]
