"""Import libraries that would otherwise fetch files from a hub on import, without the fetch and without the warning."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

#: The package that fetches kernels from a hub and runs them.
_FETCHES = "kernels"
#: The logger that warns in every process, on a CPU with AVX512-BF16, that it could not fetch a kernel.
_TELLS = "bitsandbytes"


@contextmanager
def offline() -> Iterator[None]:
    """Hide the package that fetches from a hub from all imports inside the block; libraries then work without it."""
    logger, modules = logging.getLogger(_TELLS), cast(dict[str, ModuleType | None], sys.modules)
    level, imported = logger.level, modules.get(_FETCHES)
    logger.setLevel(logging.ERROR)
    modules[_FETCHES] = None  # importing it now raises ImportError
    try:
        yield
    finally:
        logger.setLevel(level)
        del modules[_FETCHES]
        if imported is not None:
            modules[_FETCHES] = imported
