"""Return the memory of large CPU tensors to the system as soon as they are freed, and keep the rest.

glibc gives large blocks their own pages. It raises the threshold for this to the size of the largest freed block, up to
32 MiB. Activations of a large batch are then in the heap between smaller blocks, which leaves holes that nothing fits
into: a step of ViLT-B/32 peaked at several times the memory that it held (docs/benchmarks.md). So fix the threshold.

With a fixed threshold, glibc returns the end of the heap whenever 128 KiB are free there, and requests it again at the
next activation, page by page. This took a twentieth to a tenth of vilt-mini's steps. So also keep the memory that one
step frees for the next.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: Blocks of at least this many bytes get their own pages. Smaller ones are quicker to reuse than to request again.
LARGE = 8 * 2**20
#: Free bytes at the end of the heap that the process keeps.
KEPT = 8 * LARGE
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
#: Environment variables with which users set these thresholds in glibc.
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def return_large_blocks() -> bool:
    """Set both thresholds for this process, unless its environment does; return whether it worked (only on glibc)."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
