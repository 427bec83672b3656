"""How much memory this process can still allocate, given its machine, its container and its own limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the number of bytes left under the tightest limit; ``None`` if the system does not tell."""
    return min(_limits(), default=None)


def kernel_bytes(file: str, key: str) -> int | None:
    """Return an entry of a kernel table such as ``/proc/self/status``, in bytes; ``None`` if there is none."""
    found = re.search(rf"^{key}:\s+(\d+) kB", _text(Path(file)), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def forget_peak() -> bool:
    """Reset this process's peak (``VmHWM``) and return whether the system can; Linux can, see proc(5)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _limits() -> Iterator[int]:
    if (machine := kernel_bytes("/proc/meminfo", "MemAvailable")) is not None:
        yield machine
    if (container := _container()) is not None:
        yield container
    if (own := _own()) is not None:
        yield own


def _container() -> int | None:
    """Return the bytes left to a container (cgroups, version 2); cached files count as free."""
    most, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    if not (most.isdecimal() and used.isdecimal()):
        return None
    files = re.search(r"^inactive_file (\d+)$", _text(_CGROUP / "memory.stat"), re.MULTILINE)
    return max(0, int(most) - int(used) + (int(files[1]) if files else 0))


def _own() -> int | None:
    """Return the bytes left under this process's address space limit (``ulimit -v``)."""
    try:
        import resource
    except ImportError:  # not POSIX
        return None
    most, used = resource.getrlimit(resource.RLIMIT_AS)[0], kernel_bytes("/proc/self/status", "VmSize")
    return None if most == resource.RLIM_INFINITY or used is None else max(0, most - used)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
