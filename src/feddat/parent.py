"""A process that must not outlive the one that started it, however that one ends."""

from __future__ import annotations

import os
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Wait for the parent of this ``multiprocessing`` process to end, and then end it too; for a thread of its own."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
