"""The app archive that a server sends with a run. A node reads one small file in it and runs none of its code.

A megabyte of an archive can unpack to gigabytes, so the declared sizes are checked before anything is read.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

from flwr.common.config import get_fab_config

#: The largest archive, and the largest file to read from it, in bytes.
MOST_ARCHIVE, MOST_FILE = 32 * 2**20, 2**20
_FILE = "pyproject.toml"


class BundleError(ValueError):
    """An archive is not a valid app; the message says why."""


def app_config(content: bytes) -> dict[str, Any]:
    """Return the contents of an app's ``pyproject.toml``.

    Raises:
        BundleError: it cannot be read, or is too large for an app.
    """
    check_bundle(content)
    try:
        return get_fab_config(content)
    except Exception as error:  # The sender wrote every byte, so reading can fail in any way.
        raise BundleError(f"the server's app cannot be read: {type(error).__name__}: {error}") from None


def check_bundle(content: bytes) -> None:
    """Check an app's archive without unpacking anything.

    Raises:
        BundleError: the archive cannot be read or is too large.
    """
    if len(content) > MOST_ARCHIVE:
        raise BundleError(f"the server's app has {len(content)} bytes, expected at most {MOST_ARCHIVE}")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            size = archive.getinfo(_FILE).file_size
    except Exception as error:
        raise BundleError(f"the server's app cannot be read: {type(error).__name__}: {error}") from None
    if size > MOST_FILE:
        raise BundleError(f"{_FILE} of the server's app has {size} bytes, expected at most {MOST_FILE}")
