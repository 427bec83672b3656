"""Text of others for people: one line, of bounded length, that no terminal takes for a command.

Names, reasons and keys come from other machines. A terminal obeys escape sequences in them (colours, titles, cursor,
clipboard), and signs that turn the direction of writing make a name look like another one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

#: Characters of a line of a log, and of one text from elsewhere within it.
LINE, PART = 2000, 300
#: Entries of a list or a table of others that are written down.
ENTRIES = 10_000
#: Unicode's categories of signs that are not shown: control, format, surrogate, private, unassigned, separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def one_line(text: object, most: int = PART) -> str:
    """Return a text in one line: white space becomes a space, what cannot be seen its code, and the rest is cut off.

    Args:
        text: from anywhere; what is no text is written as Python does.
        most: length of what is kept; how much is left out stands behind it.
    """
    whole = text if isinstance(text, str) else str(text)
    # Four times as much is looked at as is kept, so that spaces may go; a text may have gigabytes.
    kept = " ".join(whole[: 4 * most].split())
    seen = "".join(_shown(sign) for sign in kept[: most + 1])
    if len(seen) <= most and len(whole) <= 4 * most:
        return seen
    return f"{seen[:most]}… ({len(whole)} characters)"


def plain(value: Any, most: int = PART) -> Any:
    """Return what stands in a line of a log with all its texts as :func:`one_line` gives them, and no more entries."""
    if isinstance(value, str):
        return one_line(value, most)
    if isinstance(value, Mapping):
        return {one_line(key, most): plain(item, most) for key, item in list(value.items())[:ENTRIES]}
    if isinstance(value, list | tuple):
        return [plain(item, most) for item in value[:ENTRIES]]
    return value


def _shown(sign: str) -> str:
    if sign.isascii():
        return sign if sign.isprintable() else f"\\x{ord(sign):02x}"
    if unicodedata.category(sign) not in _HIDDEN:
        return sign
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"
