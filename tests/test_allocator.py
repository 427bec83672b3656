"""Freed large blocks return to the system, even with small blocks between them; memory of small ones is kept."""

import os
import platform
import subprocess
import sys

import pytest

from feddat.allocator import VARIABLES, return_large_blocks

#: Frees a block of 31 MiB, allocates 20 of 16 MiB, each followed by a small one, and frees the large ones.
#: Prints whether the thresholds were set, and the growth of resident memory in MiB.
PROGRAM = """
import ctypes, sys
from feddat.allocator import VARIABLES, return_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
done = return_large_blocks() if sys.argv[1] == "set" else None

def block(size):
    address = libc.malloc(size)
    ctypes.memset(address, 1, size)
    return address

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc.free(block(31 * 2**20))
before = resident()
pairs = [(block(16 * 2**20), block(4096)) for _ in range(20)]
for large, _ in pairs:
    libc.free(large)
print(done, (resident() - before) // 2**20)
"""
#: Allocates and frees six blocks of 4 MiB ten times. Prints whether the thresholds were set, and the page faults.
AGAIN = """
import ctypes, resource, sys
from feddat.allocator import return_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
done = return_large_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    blocks = [libc.malloc(4 * 2**20) for _ in range(6)]
    for block in blocks:
        ctypes.memset(block, 1, 4 * 2**20)
    for block in reversed(blocks):
        libc.free(block)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GLIBC = platform.libc_ver()[0] == "glibc"


def said(program, *arguments, **environment):
    """Run a program and return what it prints: whether the thresholds were set, and a number."""
    inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    command = [sys.executable, "-c", program, *arguments]
    found = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    done, number = found.stdout.split()
    return done, int(number)


def growth(setting, **environment):
    """Return whether the thresholds were set, and by how many MiB the process has grown."""
    return said(PROGRAM, setting, **environment)


@pytest.mark.skipif(not GLIBC, reason="glibc's own behaviour")
def test_freed_blocks_leave_the_process():
    assert growth("unset")[1] > 250
    done, grown = growth("set")
    assert done == "True"
    assert grown < 10


@pytest.mark.skipif(not GLIBC, reason="glibc's own behaviour")
def test_what_the_user_has_set_stays():
    done, grown = growth("set", MALLOC_MMAP_THRESHOLD_=str(32 * 2**20))
    assert done == "False"
    assert grown > 250


@pytest.mark.skipif(not GLIBC, reason="glibc's own behaviour")
def test_what_smaller_blocks_free_is_there_for_the_next():
    done, faults = said(AGAIN)
    assert done == "True"
    # The first of ten passes faults on 6,144 pages of 4 KiB; the others reuse them.
    assert faults < 2 * 6 * 1024


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert return_large_blocks() is False
