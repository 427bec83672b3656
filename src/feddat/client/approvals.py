"""Which runs a client takes part in, with which settings: what its administrator has said, kept on its own disk.

| below ``.policy/`` | holds |
| --- | --- |
| ``waiting/RUN.json`` | settings that a server has asked for and nobody has approved: the newest few |
| ``approved/RUN.json`` | settings that are approved, and that this run must keep to |
| ``today.json`` | what was done today (:mod:`feddat.client.ledger`) |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from feddat.files import write_json

#: Dotted key -> value.
Settings: TypeAlias = Mapping[str, Any]
#: Runs that may wait at a time; of more, the oldest go.
MOST_WAITING = 20


class ApprovalError(RuntimeError):
    """There is nothing to approve, or a file of approvals cannot be used; the message names the run or the file."""


class Approvals:
    """The approvals of one client.

    Args:
        state: folder of what the client keeps.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / ".policy"

    def approved(self, run: str) -> dict[str, Any] | None:
        """Return the settings that a run must keep to; ``None`` where it is not approved.

        Raises:
            ApprovalError: the file cannot be read.
        """
        return _read(self._file("approved", run))

    def wait(self, run: str, settings: Settings) -> None:
        """Note what a run asks for, until it is approved.

        Raises:
            OSError: the disk refuses.
        """
        file = self._file("waiting", run)
        if not file.is_file():
            self._make_room()
        self._write(file, settings)

    def waiting(self) -> dict[str, dict[str, Any]]:
        """Return the runs that wait, the newest last.

        Raises:
            ApprovalError: a file cannot be read.
        """
        return {file.stem: _read(file) or {} for file in self._waiting()}

    def approve(self, run: str, settings: Settings | None = None) -> None:
        """Let a run have the settings it waits with, or the given ones; from now on it must keep to them.

        Raises:
            ApprovalError: it does not wait.
            OSError: the disk refuses.
        """
        if settings is None and (settings := self.waiting().get(run)) is None:
            names = ", ".join(self.waiting()) or "none"
            raise ApprovalError(f"run {run}: does not wait for approval; runs that do: {names}")
        self._write(self._file("approved", run), settings)
        self._file("waiting", run).unlink(missing_ok=True)

    def _file(self, kind: str, run: str) -> Path:
        return self.folder / kind / f"{run}.json"

    def _waiting(self) -> list[Path]:
        return sorted((self.folder / "waiting").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)

    def _make_room(self) -> None:
        for old in self._waiting()[: 1 - MOST_WAITING]:
            old.unlink(missing_ok=True)

    def _write(self, file: Path, settings: Settings) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(settings))


def changes(before: Settings, after: Settings) -> list[str]:
    """Return the keys whose values are not the same."""
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ApprovalError(f"{file}: cannot be read: {error}; remove it, and approve the run again") from None
    if not isinstance(found, dict):
        raise ApprovalError(f"{file}: expected settings; remove it, and approve the run again")
    return found
