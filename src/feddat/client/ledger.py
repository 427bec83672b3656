"""Daily counts (UTC) of a client's actions that its policy limits per day; they survive restarts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feddat.files import locked, write_json


class Ledger:
    """The counts of today; counts of other days are dropped.

    Args:
        folder: folder of the file; created with the first count.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "today.json"

    def take(self, what: str, most: int) -> bool:
        """Count one more ``what`` unless the count is already ``most``; return whether it was counted.

        Raises:
            OSError: the file cannot be read or written.
            ValueError: the file is damaged.
        """
        with locked(self.file.parent, wait=True):
            today = datetime.now(UTC).date().isoformat()
            counts = self._read()
            if counts.get("day") != today:
                counts = {"day": today}
            if counts.get(what, 0) >= most:
                return False
            write_json(self.file, counts | {what: counts.get(what, 0) + 1})
            return True

    def _read(self) -> dict[str, Any]:
        try:
            counts = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            counts = None
        if not isinstance(counts, dict) or any(type(n) is not int for key, n in counts.items() if key != "day"):
            raise ValueError(f"{self.file}: damaged; remove it to restart today's counts at 0")
        return counts
