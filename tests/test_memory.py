"""Free memory: the least of what the machine, a container and the process's own limit leave."""

import subprocess
import sys

import pytest

from feddat import memory

GIB = 2**30


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (
            {
                "memory.max": "4294967296\n",
                "memory.current": "3221225472\n",
                "memory.stat": "inactive_file 536870912\n",
            },
            1.5,
        ),
        ({"memory.max": "1073741824", "memory.current": "2147483648"}, 0.0),
        ({"memory.max": "max", "memory.current": "1"}, None),
        ({}, None),
    ],
)
def test_what_a_container_leaves(files, left, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    found = memory._container()
    assert (None if found is None else found / GIB) == left


def test_the_least_of_all_counts(monkeypatch):
    monkeypatch.setattr(memory, "kernel_bytes", lambda file, key: 8 * GIB)
    monkeypatch.setattr(memory, "_own", lambda: 5 * GIB)
    monkeypatch.setattr(memory, "_container", lambda: 6 * GIB)
    assert memory.free_memory() == 5 * GIB
    monkeypatch.setattr(memory, "_limits", lambda: iter(()))
    assert memory.free_memory() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says about memory")
def test_a_limit_of_addresses_counts():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from feddat.memory import free_memory; print(free_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 * GIB < int(done.stdout) < GIB
