"""Daily counts (UTC) of a client's actions that its policy limits per day; they survive restarts.

There are two copies: with the approvals, and beside the keys that seal the states. The larger count of each action
counts, so whoever removes one of them, or restores an old backup of it, gains nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feddat.files import locked, private_folder, write_json


class Ledger:
    """The counts of today; counts of other days are dropped.

    Args:
        folder: folder of the file; created with the first count.
        seals: folder of the keys, with the copy.
    """

    def __init__(self, folder: Path, seals: Path) -> None:
        self.file, self._copy = folder / "today.json", seals / ".today.json"

    def take(self, what: str, most: int) -> bool:
        """Count one more ``what`` unless the count is already ``most``; return whether it was counted.

        Raises:
            OSError: a file cannot be read or written.
            ValueError: a file is damaged.
        """
        with locked(self.file.parent, wait=True):
            today = datetime.now(UTC).date().isoformat()
            counts: dict[str, int] = {}
            for found in (_read(self._copy), _read(self.file)):
                if found.pop("day", None) == today:
                    counts |= {key: max(count, counts.get(key, 0)) for key, count in found.items()}
            if counts.get(what, 0) >= most:
                return False
            counts[what] = counts.get(what, 0) + 1
            private_folder(self._copy.parent)
            for path in (self._copy, self.file):
                write_json(path, {"day": today} | counts)
            return True


def _read(file: Path) -> dict[str, Any]:
    try:
        counts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        counts = None
    if not isinstance(counts, dict) or any(type(n) is not int for key, n in counts.items() if key != "day"):
        raise ValueError(f"{file}: damaged; remove it: the other copy of today's counts then counts")
    return counts
