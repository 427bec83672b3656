"""The lock file pins every requirement of pyproject.toml with hashes; torch has lock files of its own."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name):
    """Return the requirements in a lock file, each with its number of hashes."""
    entries = (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines()
    found = []
    for entry in entries:
        if entry.strip() and not entry.startswith("#"):
            pinned, *hashes = entry.split("--hash=sha256:")
            assert all(re.fullmatch(r"[0-9a-f]{64}", text.strip()) for text in hashes), entry[:80]
            found.append((Requirement(pinned.strip()), len(hashes)))
    return found


def wanted():
    """Return all requirements of the package and its extra ``dev`` except torch, with its own extras expanded."""
    extras = PROJECT["optional-dependencies"]
    waiting, found = [*PROJECT["dependencies"], *extras["dev"]], []
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == PROJECT["name"]:
            waiting += [text for extra in requirement.extras for text in extras[extra]]
        elif requirement.name != "torch":
            found.append(requirement)
    return found


def test_every_entry_is_pinned_and_has_hashes():
    for name in ("lock.txt", "torch.txt", "torch-cpu.txt"):
        for requirement, hashes in locked(name):
            [pin] = requirement.specifier
            assert (pin.operator, hashes > 0) == ("==", True), requirement


@pytest.mark.parametrize("requirement", sorted(wanted(), key=str), ids=str)
def test_what_is_asked_for_is_locked_in_a_version_that_fits(requirement):
    pins = [pin for pin, _ in locked("lock.txt") if pin.name.lower() == requirement.name.lower()]
    assert pins, f"{requirement} is not locked; run `make lock`"
    for pin in pins:
        [exact] = pin.specifier
        assert requirement.specifier.contains(exact.version), f"{requirement} is locked at {exact}; run `make lock`"


def test_torch_is_locked_apart_in_one_version():
    assert not [pin for pin, _ in locked("lock.txt") if re.match("torch|nvidia|triton", pin.name)]
    [(torch, _)], [(cpu, _)] = locked("torch.txt"), locked("torch-cpu.txt")
    assert str(torch) == (ROOT / "constraints.txt").read_text().strip()
    assert str(cpu) == f"{torch}+cpu"
    assert version("torch").split("+")[0] == str(next(iter(torch.specifier)).version)


def test_no_file_names_a_registry():
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text(), path
