"""Convert one cell or JSON value to text, and show unusable values in messages."""

from __future__ import annotations

import datetime
import decimal
import math
import reprlib
from collections.abc import Iterable
from typing import Any

from feddat.text import normal_text

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def is_missing(value: Any) -> bool:
    """Return whether a value means "missing": null, not-a-number (as data frames write it) or blank text."""
    if isinstance(value, str):
        return not normal_text(value).strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_single(value: Any) -> bool:
    """Return whether a value fits in a cell of a table: text, a number, a truth value or a date."""
    return isinstance(value, str | int | float | decimal.Decimal | datetime.date | datetime.time)


def as_text(value: Any) -> str:
    """Return a single value as people write it, without surrounding space: 3 for 3.0, true for ``True``."""
    if isinstance(value, bool):
        return str(value).lower()
    whole = as_whole(value)
    if whole is not None and not isinstance(value, str):
        return str(whole)
    return normal_text(str(value)).strip()


def as_whole(value: Any) -> int | None:
    """Return a whole number, even if a data frame turned it into 3.0 or a table into text; otherwise ``None``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        try:
            value = int(text) if text.lstrip("-").isdecimal() else float(text) if len(text) < 25 else None
        except ValueError:
            return None
    if isinstance(value, int):
        return value
    if isinstance(value, decimal.Decimal):
        value = float(value)
    return int(value) if isinstance(value, float) and abs(value) < 2**53 and value.is_integer() else None


def listed(names: Iterable[Any]) -> str:
    """Return names separated by commas in one line, cut off after 300 characters; a quoted name can span lines."""
    text = ", ".join(" ".join(normal_text(str(name)).split()) for name in names)
    return text if len(text) <= 300 else f"{text[:297]}..."


def shown(value: Any) -> str:
    """Return the start of a value for messages; it stays short however deep or long the value is."""
    return _SHORT.repr(value)
