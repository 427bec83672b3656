"""The runs that a client's administrator has approved and their settings, kept on the client's own disk.

| below ``.policy/`` | contents |
| --- | --- |
| ``waiting/RUN.json`` | settings that a server asked for and nobody has approved yet; only the newest few runs |
| ``approved/RUN.json`` | approved settings, which the run must keep to |
| ``today.json`` | counts of today's actions (:mod:`feddat.client.ledger`) |

``.approved.json``, beside the keys that seal the states, holds the hash of each run's approved settings, and of those
that were approved for it before. So whoever can
write to the states but not there can approve nothing: no waiting run, no settings that were approved earlier, and no
run whose approval was withdrawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from feddat.files import locked, private_folder, write_json

#: Dotted key -> value.
Settings: TypeAlias = Mapping[str, Any]
#: Most runs that can wait at a time; the oldest make room for new ones.
MOST_WAITING = 20


class ApprovalError(RuntimeError):
    """There is nothing to approve, or an approval file is unusable; the message names the run or the file."""


class InvalidApprovalError(ApprovalError):
    """A run's approval was withdrawn, is gone, or is not the one that was given here; it can be approved again."""


class Approvals:
    """The approvals of one client.

    Args:
        state: folder of the client's personal state.
        seals: folder of the keys that seal it.
    """

    def __init__(self, state: Path, seals: Path) -> None:
        self.folder, self._record = state / ".policy", seals / ".approved.json"

    def approved(self, run: str) -> dict[str, Any] | None:
        """Return the settings that a run must keep to, or ``None`` if nobody has approved the run.

        Raises:
            InvalidApprovalError: the run's approval does not count.
            ApprovalError: a file cannot be read.
            OSError: the folder cannot be locked.
        """
        file = self._file("approved", run)
        with locked(self.folder, wait=True):
            known, found = self._known(), _read(file)
        if found is None and run not in known:
            return None
        if found is not None and known.get(run) == _hash(found):
            return found
        if run in known and known[run] is None:
            raise InvalidApprovalError(f"run {run}: its approval was withdrawn")
        if found is None:
            raise InvalidApprovalError(f"run {run}: its approval {file} is gone")
        raise InvalidApprovalError(
            f"run {run}: {file} is not what was approved here; it was altered, or is of an earlier version"
        )

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
        """Return the other runs that were ever approved with the same settings, sorted.

        Raises:
            ApprovalError: the record of approvals cannot be read.
        """
        wanted = _hash(settings)
        return sorted(name for name, hashes in self._ever().items() if name != run and wanted in hashes)

    def pin(self, run: str, settings: Settings) -> None:
        """Approve a run with these settings, whether it waits or not; it must keep to them from now on.

        Raises:
            ApprovalError: the record of approvals cannot be read.
            OSError: a file cannot be written.
        """
        with locked(self.folder, wait=True):
            known = self._known()
            self._write(self._file("approved", run), settings)
            self._write_known(known | {run: _hash(settings)})
            self._file("waiting", run).unlink(missing_ok=True)

    def withdraw(self, run: str) -> None:
        """Withdraw a run's approval: the run has to be approved again, also at first use.

        Raises:
            ApprovalError: the run is not approved, or the record of approvals cannot be read.
            OSError: a file cannot be written or removed.
        """
        with locked(self.folder, wait=True):
            known = self._known()
            approved = {file.stem for file in (self.folder / "approved").glob("*.json")}
            if run not in approved and known.get(run) is None:
                raise ApprovalError(
                    f"run {run}: is not approved; approved runs: {', '.join(sorted(approved)) or 'none'}"
                )
            self._write_known(known | {run: None})
            for kind in ("approved", "waiting"):
                self._file(kind, run).unlink(missing_ok=True)

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

    def _known(self) -> dict[str, str | None]:
        """Return the hash of each run's approved settings; ``None``: its approval was withdrawn."""
        found = (_read(self._record) or {"runs": {}}).get("runs")
        if not isinstance(found, dict) or not all(isinstance(one, str | None) for one in found.values()):
            raise ApprovalError(f"{self._record}: expected runs and hashes; remove it and approve the runs again")
        return found

    def _ever(self) -> dict[str, list[str]]:
        """Return the hashes of all settings that were ever approved for each run."""
        found = (_read(self._record) or {}).get("ever", {})
        if not isinstance(found, dict) or not all(isinstance(hashes, list) for hashes in found.values()):
            raise ApprovalError(f"{self._record}: expected runs and hashes; remove it and approve the runs again")
        now = {run: known for run, known in self._known().items() if known is not None}
        return {run: sorted({*found.get(run, ()), *([now[run]] if run in now else ())}) for run in {*found, *now}}

    def _write_known(self, known: Mapping[str, str | None]) -> None:
        ever = self._ever()
        for run, one in known.items():
            if one is not None and one not in (hashes := ever.setdefault(run, [])):
                hashes.append(one)
        private_folder(self._record.parent)
        write_json(self._record, {"runs": dict(known), "ever": ever})

    def _write(self, file: Path, settings: Settings) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(settings))


def changes(before: Settings, after: Settings) -> list[str]:
    """Return the keys whose values differ, sorted."""
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _hash(settings: Settings) -> str:
    return sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


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
