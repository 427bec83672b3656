"""End a process when its parent ends, however that happens."""

from __future__ import annotations

import os
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Wait for the parent of this ``multiprocessing`` process to end, then end this process; run it in a thread."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
