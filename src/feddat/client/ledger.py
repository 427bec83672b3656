"""How often a client has done something today (UTC), over restarts: what its policy limits per day."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feddat.files import locked, write_json


class Ledger:
    """Counts by day; those of other days are dropped.

    Args:
        folder: where the file lies; made when something is counted.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "today.json"

    def take(self, what: str, most: int) -> bool:
        """Count one more, unless there are ``most`` already; return whether it was counted.

        Raises:
            OSError: the disk refuses.
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
            raise ValueError(f"{self.file}: damaged; remove it, and today's counts begin at 0")
        return counts
