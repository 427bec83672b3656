"""Search a server's memory, log and checkpoints for one client's update."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from secure_hunt import needles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads another process's memory by /proc"),
]

TESTS = Path(__file__).parent


def memory_has(pid, wanted):
    """Return the names of the byte strings that a process has in its writable memory."""
    found = set()
    longest = max(map(len, wanted.values()))
    place = Path(f"/proc/{pid}")
    with (place / "maps").open() as maps, (place / "mem").open("rb", buffering=0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None:
                continue
            begin, end = (int(number, 16) for number in match.groups())
            kept = b""
            while begin < end:
                try:
                    memory.seek(begin)
                    part = memory.read(min(2**22, end - begin))
                except (OSError, ValueError):
                    break  # the kernel does not let this page be read
                if not part:
                    break
                text = kept + part
                found |= {name for name, needle in wanted.items() if needle in text}
                kept, begin = text[-longest:], begin + len(part)
    return found


def hunt(folder, kind):
    """Return the forms of the update that a server's memory has at each stop, and those that its files have."""
    wanted, found = needles(), {}
    command = [sys.executable, "-m", "secure_hunt", str(folder), kind]
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            for stop in server.stdout:
                found[stop.strip()] = memory_has(server.pid, wanted)
                server.stdin.write("\n")
                server.stdin.flush()
        finally:
            server.kill()
    files = [path.read_bytes() for path in [folder / "log.txt", *(folder / "checkpoints").rglob("*")] if path.is_file()]
    assert len(files) >= 2
    found["files"] = {name for name, needle in wanted.items() if any(needle in content for content in files)}
    return found


def test_the_server_never_has_one_clients_update(tmp_path):
    found = hunt(tmp_path, "secure")
    assert list(found) == ["trained 1", "share 1", "mask 1", "agree 1", "reveal 1", "end", "files"]
    assert not set().union(*found.values()), found


def test_without_secure_aggregation_the_same_search_finds_it(tmp_path):
    found = hunt(tmp_path, "plain")
    assert "float32" in found["trained 1"]
