"""Valid client names: each becomes the name of folders and files, on any system."""

from __future__ import annotations

from collections.abc import Iterable

from feddat.text import normal_text

#: Characters that some system does not allow in a file name.
_IMPOSSIBLE = '/\\:*?"<>|'
#: The longest name in bytes of UTF-8. File systems allow 255, and names get numbers and extensions.
_LONGEST = 200
_RULE = f"expected letters, digits, spaces and signs, but none of {' '.join(_IMPOSSIBLE)}, and no dot at an end"


def name_problem(name: str) -> str | None:
    """Return why a text is not a valid client name, and what would be; ``None`` if it is valid."""
    if not name:
        return f"empty; {_RULE}"
    if name != normal_text(name) or name != name.strip():
        return f"a space at an end, or not in the usual Unicode form; did you mean {normal_text(name).strip()!r}?"
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        return f"longer than {_LONGEST} bytes of UTF-8"
    if name[0] == "." or name[-1] == "." or any(sign in _IMPOSSIBLE or not sign.isprintable() for sign in name):
        possible = "".join("-" if sign in _IMPOSSIBLE else sign for sign in name if sign.isprintable()).strip(". ")
        return _RULE + (f"; for example {possible!r}" if possible.strip("-") else "")
    return None


def same_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that differ only in letter case, or ``None``; some file systems do not distinguish them."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            return other, name
    return None
