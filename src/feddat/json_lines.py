"""Files of JSON lines: one object on each line, added at the end.

A full disk, a kill or a power cut can leave a torn line. Whatever is added next begins on a line of its own, so a torn
line spoils no other one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any


class LineError(ValueError):
    """A complete line of a file is no JSON object; the message names the file and the line."""


def append(
    path: Path, lines: Iterable[Mapping[str, Any]], *, mend: bool = True, whole: bool = False, sync: bool = False
) -> None:
    """Add objects to a file in one write; create the file if it does not exist.

    Args:
        path: the file.
        lines: the objects.
        mend: first end the file's last line if it is torn.
        whole: remove what a failed write has left; nobody else may write to the file at the same time.
        sync: return when the lines are on the disk.

    Raises:
        OSError: the file cannot be written.
    """
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    # Without a buffer: a failed write would be repeated when the file is closed.
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END) if file.seekable() else 0
        try:
            if content and mend and _is_torn(file, end):
                content = b"\n" + content
            while content:
                content = content[file.write(content) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            if whole:
                with suppress(OSError):
                    file.truncate(end)
            raise


def parse(content: bytes) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the number (1-based) and the object of each complete line; ``None`` for a line that is no JSON object."""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the latter for brackets nested too deeply
            value = None
        yield number, value if isinstance(value, dict) else None


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of all complete lines of a file.

    Raises:
        LineError: a complete line is no JSON object.
        OSError: the file cannot be read.
    """
    found = []
    for number, value in parse(path.read_bytes()):
        if value is None:
            raise LineError(f"{path}, line {number}: not JSON")
        found.append(value)
    return found


def objects(content: bytes) -> list[dict[str, Any]]:
    """Return the objects of all complete lines; lines that are no JSON objects are skipped."""
    return [value for _, value in parse(content) if value is not None]


class Tail:
    """The end of a file to which another process adds lines; leave the block to close it.

    The file stays open, so that a file which replaces it cannot have its inode, and is known as another one.

    Args:
        path: the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._at = 0
        if (file := self._current()) is not None:
            self._at = file.seek(0, os.SEEK_END)

    def __enter__(self) -> Tail:
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def new(self) -> list[dict[str, Any]]:
        """Return the objects added since the previous call, or since creation; other lines are skipped.

        A file that replaces the earlier one, or has become shorter, is read from its beginning.
        """
        if (file := self._current()) is None:
            return []
        if file.seek(0, os.SEEK_END) < self._at:
            self._at = 0
        file.seek(self._at)
        content = file.read()
        self._at += content.rfind(b"\n") + 1
        return objects(content)

    def _current(self) -> FileIO | None:
        """Return the file that is now at the path, or the last one that was; open it unless it is open already."""
        try:
            if self._file is not None and os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return self._file
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return self._file
        if self._file is not None:
            self._file.close()
        self._file, self._at = file, 0
        return file


def _is_torn(file: FileIO, end: int) -> bool:
    """Return whether the last line of a file of ``end`` bytes has no line feed."""
    if not end:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"
