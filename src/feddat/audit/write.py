"""Write an audit's page and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.audit.page import page
from feddat.files import write_atomic, write_json


def write(folder: Path, result: Mapping[str, Any], failures: Sequence[str], limited: bool) -> tuple[Path, Path]:
    """Write ``audit.html`` and ``audit.json`` into a folder, and return their paths. Create the folder if needed.

    Args:
        folder: the folder to write into.
        result: from :func:`feddat.audit.run.audit`.
        failures: the limits that were exceeded.
        limited: whether there were limits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown, numbers = folder / "audit.html", folder / "audit.json"
    write_atomic(shown, page(result, failures, limited).encode())
    write_json(numbers, {**result, "exceeded": list(failures)})
    return shown, numbers
