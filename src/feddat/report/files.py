"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(target: Path, content: str | bytes) -> Path:
    """Write a file at once, text as UTF-8, and return its path.

    Raises:
        OSError: the disk refuses.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return temporary.replace(target)
