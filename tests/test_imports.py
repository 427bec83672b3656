"""Importing the modules of the package opens no network connection, and needs declared packages only."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "feddat"

WATCHED = """
import importlib, json, pkgutil, sys
asked = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append([current, event, repr(arguments)[:200]])

sys.addaudithook(watch)
current = "feddat"
import feddat
names = [module.name for module in pkgutil.walk_packages(feddat.__path__, "feddat.")]
for current in names:
    if not current.endswith("__main__"):
        importlib.import_module(current)
current = "by hand"
import socket
try:
    socket.create_connection(("127.0.0.1", 9), 0.1)
except OSError:
    pass
print(json.dumps([len(names), asked]))
"""


def test_importing_everything_opens_no_connection():
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True)
    count, asked = json.loads(done.stdout.splitlines()[-1])
    assert count > 200
    assert {where for where, *_ in asked} == {"by hand"}, asked
    assert asked, "the watch sees what is done by hand"


def every_requirement():
    """Return the requirements of the package and of its extras for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
    return [text for texts in [project["dependencies"], *extras] for text in texts]


def imported(tree):
    """Return the top-level packages that a module imports anywhere, other than Python's own and the project's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"feddat"}


def test_every_package_that_is_imported_is_declared():
    declared = {re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in every_requirement()}
    owners = packages_distributions()
    for path in sorted(SOURCE.rglob("*.py")):
        for name in imported(ast.parse(path.read_text())):
            assert declared & {owner.lower().replace("_", "-") for owner in owners.get(name, [name])}, f"{path}: {name}"
