"""Bytes, counts and durations in human-readable form."""

from __future__ import annotations


def human_bytes(number: float) -> str:
    """Return a number of bytes as text: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def human_count(number: float) -> str:
    """Return a count as text: ``1.2 M``."""
    for unit in ("", " k", " M"):
        if abs(number) < 1000:
            return f"{number:.0f}{unit}" if unit == "" or number >= 100 else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f} G"


def human_duration(seconds: float) -> str:
    """Return a duration as text: ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
