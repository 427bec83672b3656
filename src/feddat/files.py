"""Files that are there completely or not at all, whatever kills the process that writes them, and private ones."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Of a key or a token of this machine's own.
SECRET_BYTES = 32


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file written to it becomes ``path`` completely or not at all, also after a power cut.

    Raises:
        OSError: it cannot be written; what was at ``path`` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; what is written into it becomes ``path`` completely or not at all.

    A folder that is there already is replaced: after a power cut in between, there may be none.

    Raises:
        OSError: it cannot be written; what was at ``path`` stays.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            if entry.is_dir():
                sync_folder(entry)
            else:
                with entry.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file as :func:`whole_file` does.

    Raises:
        OSError: it cannot be written; what was at ``path`` stays.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system lets one open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Raises:
        OSError: it cannot be written.
        ValueError: it holds NaN or infinity.
    """
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def secret(path: Path) -> bytes:
    """Return the secret in a file, :data:`SECRET_BYTES` that only its owner may read; made where there is none.

    Of two processes that make it, both get the first one's.

    Raises:
        OSError: it cannot be written or read.
        ValueError: the file holds something else.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        except OSError:
            if os.name == "posix" and temporary.stat().st_size < SECRET_BYTES:
                raise
            temporary.replace(path)  # a disk that gives files one name each
        finally:
            temporary.unlink(missing_ok=True)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise ValueError(f"{path}: holds no secret of {SECRET_BYTES} bytes")
    return found


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder; the system frees it when this one dies, however it dies.

    Args:
        folder: made where it does not exist.
        wait: for the process that is in there, instead of raising.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: the folder cannot be made or written to.
    """
    private_folder(folder)
    with (folder / ".lock").open("w") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


#: Environment variable with the umask of every `feddat` command, in octal digits.
UMASK = "FEDDAT_UMASK"


def private_umask() -> None:
    """Let what this process and those that it starts write from now on be their owner's alone: 0700 and 0600.

    The environment variable :data:`UMASK` gives another umask, for a group that shares its runs (``027``).

    Raises:
        ValueError: the variable is not an octal number from 0 to 777.
    """
    text = os.environ.get(UMASK, "077")
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError(f"{UMASK}: expected octal digits from 0 to 777, got {text!r}")
    os.umask(int(text, 8))


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can enter, where it does not exist yet; return it.

    One that exists keeps its mode: somebody may have opened it to a group on purpose.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700 if UMASK not in os.environ else 0o777, exist_ok=True)
    return folder


def close_to_others(path: Path, below: bool = True) -> None:
    """Take from a file or folder the rights that this process's umask would not give; links are not followed.

    Args:
        path: of what may not be there.
        below: with everything below the folder.

    Raises:
        OSError: it is another user's.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    entries = sorted(path.rglob("*")) if below and path.is_dir() and not path.is_symlink() else []
    for entry in (path, *entries):
        with contextlib.suppress(FileNotFoundError):  # a process that is at work may have removed it
            mode = entry.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & umask & 0o777:
                entry.chmod(stat.S_IMODE(mode) & ~umask)
