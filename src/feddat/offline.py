"""Libraries that ask a hub for files when they are imported: imported so that they do not, and do not tell of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

#: The package that fetches kernels from a hub, and runs them.
_FETCHES = "kernels"
#: Says in every process, on a CPU with AVX512-BF16, that it could not fetch one.
_TELLS = "bitsandbytes"


@contextmanager
def offline() -> Iterator[None]:
    """Let nothing that is imported inside the block find what fetches from a hub; it does without then."""
    logger, modules = logging.getLogger(_TELLS), cast(dict[str, ModuleType | None], sys.modules)
    level, imported = logger.level, modules.get(_FETCHES)
    logger.setLevel(logging.ERROR)
    modules[_FETCHES] = None  # whoever imports it now gets an ImportError
    try:
        yield
    finally:
        logger.setLevel(level)
        del modules[_FETCHES]
        if imported is not None:
            modules[_FETCHES] = imported
