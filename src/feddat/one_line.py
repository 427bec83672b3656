"""Make untrusted text safe to show: one line of bounded length, without terminal control sequences.

Names, reasons and keys come from other machines. Escape sequences in them can control a terminal (colours, titles,
cursor, clipboard), and characters that change the direction of writing can make one name look like another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

#: The longest log line, and the longest untrusted text in it, in characters.
LINE, PART = 2000, 300
#: The most entries of an untrusted list or mapping to keep.
ENTRIES = 10_000
#: Unicode categories of characters to escape: control, format, surrogate, private, unassigned, separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def one_line(text: object, most: int = PART) -> str:
    """Return a text in one line: collapse white space to single spaces, escape invisible characters, cut the end.

    Args:
        text: any text; other objects are converted with ``str``.
        most: number of characters to keep; a longer text ends with its full length.
    """
    whole = text if isinstance(text, str) else str(text)
    # Look at only four times the kept length, to allow for collapsed spaces: a text can have gigabytes.
    kept = " ".join(whole[: 4 * most].split())
    seen = "".join(_shown(sign) for sign in kept[: most + 1])
    if len(seen) <= most and len(whole) <= 4 * most:
        return seen
    return f"{seen[:most]}… ({len(whole)} characters)"


def plain(value: Any, most: int = PART) -> Any:
    """Return a log line's value with :func:`one_line` applied to all its texts, and with at most :data:`ENTRIES`."""
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
