"""Large tensors on the CPU: their memory goes back to the system as soon as they are freed, that of others stays.

glibc gives large blocks pages of their own, and raises the size from which it does so to that of whatever was freed
last, up to 32 MiB. Activations of a large batch then lie in the heap between smaller things, which leaves holes that
nothing fits into: a step of ViLT-B/32 peaked at several times what it held (docs/benchmarks.md).

Once that size is fixed, glibc gives the end of the heap back whenever 128 KiB are free there, and asks for it anew at
the next activation, page by page: of vilt-mini's steps a twentieth to a tenth. What a step frees stays, therefore, for
the next one.
"""

from __future__ import annotations

import ctypes
import os
import sys

#: Bytes from which a block has pages of its own. Smaller ones are quicker to reuse than to ask for anew.
LARGE = 8 * 2**20
#: Free bytes at the end of the heap that stay with the process.
KEPT = 8 * LARGE
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
#: What users of glibc set them by.
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def return_large_blocks() -> bool:
    """Fix both sizes for this process, unless its environment has; return whether it was done (glibc alone can)."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
