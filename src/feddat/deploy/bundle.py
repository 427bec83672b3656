"""The app that a server sends with a run: an archive, of which a node reads one small file and runs nothing.

A megabyte of an archive can unpack to gigabytes, so how large things say they are is looked at before they are read.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

from flwr.common.config import get_fab_config

#: Bytes of an archive, and of the file of it that is read.
MOST_ARCHIVE, MOST_FILE = 32 * 2**20, 2**20
_FILE = "pyproject.toml"


class BundleError(ValueError):
    """An archive is not that of an app; the message says why."""


def app_config(content: bytes) -> dict[str, Any]:
    """Return what the ``pyproject.toml`` of an app says.

    Raises:
        BundleError: it cannot be read, or is too large to be that of an app.
    """
    check_bundle(content)
    try:
        return get_fab_config(content)
    except Exception as error:  # Its sender wrote every byte of it.
        raise BundleError(f"the server's app cannot be read: {type(error).__name__}: {error}") from None


def check_bundle(content: bytes) -> None:
    """Check an app's archive, of which nothing is unpacked for it.

    Raises:
        BundleError: as :func:`app_config`.
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
