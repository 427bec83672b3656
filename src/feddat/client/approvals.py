"""The runs that a client's administrator has approved and their settings, kept on the client's own disk.

| below ``.policy/`` | contents |
| --- | --- |
| ``waiting/RUN.json`` | settings that a server asked for and nobody has approved yet; only the newest few runs |
| ``approved/RUN.json`` | approved settings, which the run must keep to |
| ``today.json`` | counts of today's actions (:mod:`feddat.client.ledger`) |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from feddat.files import write_json

#: Dotted key -> value.
Settings: TypeAlias = Mapping[str, Any]
#: Most runs that can wait at a time; the oldest make room for new ones.
MOST_WAITING = 20


class ApprovalError(RuntimeError):
    """There is nothing to approve, or an approval file is unusable; the message names the run or the file."""


class Approvals:
    """The approvals of one client.

    Args:
        state: folder of the client's personal state.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / ".policy"

    def approved(self, run: str) -> dict[str, Any] | None:
        """Return the settings that a run must keep to, or ``None`` if the run is not approved.

        Raises:
            ApprovalError: the file cannot be read.
        """
        return _read(self._file("approved", run))

    def wait(self, run: str, settings: Settings) -> None:
        """Store the settings that a run asks for until the run is approved.

        Raises:
            OSError: the file cannot be written.
        """
        file = self._file("waiting", run)
        if not file.is_file():
            self._make_room()
        self._write(file, settings)

    def waiting(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the waiting runs by run, newest last.

        Raises:
            ApprovalError: a file cannot be read.
        """
        return {file.stem: _read(file) or {} for file in self._waiting()}

    def alike(self, run: str, settings: Settings) -> list[str]:
        """Return the other approved runs with the same settings, sorted.

        Raises:
            ApprovalError: a file cannot be read.
        """
        files = sorted((self.folder / "approved").glob("*.json"))
        return [file.stem for file in files if file.stem != run and _read(file) == settings]

    def pin(self, run: str, settings: Settings) -> None:
        """Approve a run with these settings, whether it waits or not; it must keep to them from now on.

        Raises:
            OSError: the file cannot be written.
        """
        self._write(self._file("approved", run), settings)
        self._file("waiting", run).unlink(missing_ok=True)

    def approve(self, run: str, shown: Settings | None = None) -> None:
        """Approve a waiting run with the settings that it waits with; it must keep to them from now on.

        Args:
            run: the run.
            shown: the settings that the administrator has seen. A server asks every few seconds, and can ask for
                others meanwhile; default: nobody has seen any, so those that wait now.

        Raises:
            ApprovalError: the run is not waiting, or its settings are no longer those that were shown.
            OSError: the file cannot be written.
        """
        waiting = self.waiting()
        if (settings := waiting.get(run)) is None:
            names = ", ".join(waiting) or "none"
            raise ApprovalError(f"run {run}: is not waiting for approval; waiting runs: {names}")
        if shown is not None and (changed := changes(shown, settings)):
            raise ApprovalError(
                f"run {run}: not approved, since it now asks for other settings than those shown "
                f"({', '.join(changed)}); look at them and approve it again"
            )
        self.pin(run, settings)

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
    """Return the keys whose values differ, sorted."""
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ApprovalError(f"{file}: cannot be read: {error}; remove it and approve the run again") from None
    if not isinstance(found, dict):
        raise ApprovalError(f"{file}: expected a JSON object of settings; remove it and approve the run again")
    return found
