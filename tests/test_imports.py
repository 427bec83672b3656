"""Importing the modules of the package opens no network connection."""

import json
import subprocess
import sys

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
