"""Atomic writes of files and folders, secrets, locks, and permissions."""

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

#: Length of this machine's own keys and tokens, in bytes.
SECRET_BYTES = 32


@contextlib.contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary name; the file written to it becomes ``path`` completely or not at all.

    Args:
        path: the file.
        sync: keep this promise even after a power cut; that takes milliseconds.

    Raises:
        OSError: it cannot be written; names ``path``. An existing file at ``path`` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None  # the file that the user knows
        raise
    if sync:
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes ``path`` completely or not at all.

    An existing folder is replaced. A power cut during the replacement can leave neither of the two at ``path``.

    Raises:
        OSError: it cannot be written; an existing folder at ``path`` stays.
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
    """Write a file atomically, with :func:`whole_file`.

    Raises:
        OSError: it cannot be written; an existing file at ``path`` stays.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, on systems that can open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically.

    Raises:
        OSError: the file cannot be written.
        ValueError: ``value`` holds NaN or infinity.
    """
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def secret(path: Path) -> bytes:
    """Return the secret of :data:`SECRET_BYTES` bytes in a file that only its owner can read; create it if missing.

    If two processes create it at the same time, both get the secret of the first.

    Raises:
        OSError: the file cannot be written or read.
        ValueError: the file does not hold a secret of this length.
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
            temporary.replace(path)  # a file system without hard links
        finally:
            temporary.unlink(missing_ok=True)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise ValueError(f"{path}: expected a secret of {SECRET_BYTES} bytes, found {len(found)} bytes")
    return found


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder against other processes; the system releases the lock if this process dies in any way.

    Args:
        folder: the folder; created if it does not exist.
        wait: wait for the process that holds the lock, instead of raising.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the folder cannot be created or written to.
    """
    private_folder(folder)
    with (folder / ".lock").open("w") as file:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


#: Environment variable that sets the umask of every `feddat` command, in octal digits.
UMASK = "FEDDAT_UMASK"


def private_umask() -> None:
    """Give only the owner access to everything that this process and its children write from now on: 0700 and 0600.

    The environment variable :data:`UMASK` sets another umask, for a group that shares its runs (``027``).

    Raises:
        ValueError: the variable is not an octal number from 0 to 777.
    """
    text = os.environ.get(UMASK, "077")
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError(f"{UMASK}: expected octal digits from 0 to 777, got {text!r}")
    os.umask(int(text, 8))


def private_folder(folder: Path) -> Path:
    """Create a folder that only its owner can enter, if it does not exist yet; return it.

    An existing folder keeps its mode, since somebody may have opened it to a group on purpose.

    Raises:
        OSError: it cannot be created.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700 if UMASK not in os.environ else 0o777, exist_ok=True)
    return folder


def close_to_others(path: Path, below: bool = True) -> None:
    """Remove the permissions that this process's umask denies from a file or folder, without following links.

    Args:
        path: the file or folder, which need not exist.
        below: include everything inside the folder.

    Raises:
        OSError: it belongs to another user.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    entries = sorted(path.rglob("*")) if below and path.is_dir() and not path.is_symlink() else []
    for entry in (path, *entries):
        with contextlib.suppress(FileNotFoundError):  # a running process may have removed it
            mode = entry.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & umask & 0o777:
                entry.chmod(stat.S_IMODE(mode) & ~umask)
