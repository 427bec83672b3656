"""Limit how deep JSON may be nested, while a file is read.

For every open bracket, ijson stores the path to it from the top. A few hundred kilobytes of brackets would take
gigabytes of memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

#: Maximum number of open brackets; no record needs a tenth of them.
MOST_DEPTH = 100
#: Byte -> change in depth.
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Shallow:
    """A JSON file in UTF-8 that refuses to be read once it is nested too deep.

    Args:
        file: an open file.
    """

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self._depth = 0
        self._in_text = self._escaped = False

    def read(self, size: int) -> bytes:
        """Return at most ``size`` more bytes.

        Raises:
            ValueError: more than :data:`MOST_DEPTH` brackets are open.
        """
        content = self._file.read(size)
        if content:
            self._descend(content)
        return content

    def _descend(self, content: bytes) -> None:
        # Without escaped characters, each quotation mark opens or closes a text. Brackets in texts do not count.
        plain = content[self._escaped :].replace(rb"\\", b"")
        self._escaped = plain.endswith(b"\\")
        parts = plain.replace(rb"\"", b"").split(b'"')
        outside = b"".join(parts[self._in_text :: 2])
        self._in_text ^= len(parts) % 2 == 0
        if outside:
            depths = self._depth + np.cumsum(_STEPS[np.frombuffer(outside, np.uint8)], dtype=np.int64)
            self._depth = int(depths[-1])
            if depths.max() > MOST_DEPTH:
                raise ValueError(f"nested more than {MOST_DEPTH} deep")
