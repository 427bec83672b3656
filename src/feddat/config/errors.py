"""Error messages for invalid settings: one line that names the key, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

from pydantic import ValidationError

from feddat.text import did_you_mean

#: Types of pydantic error for a value that should be text.
_TEXTS = frozenset({"string_type", "path_type"})
#: Types of pydantic error for a key that a model or a dataclass does not have.
_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


class ConfigError(ValueError):
    """The configuration is invalid; the message names the key and what was expected.

    Attributes:
        unknown: the unknown keys, so that a caller can suggest what they were meant for.
    """

    def __init__(self, message: str, unknown: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unknown = tuple(unknown)


def explained(error: ValidationError, where: str, known: Iterable[str]) -> ConfigError:
    """Return a validation error as one line that begins with ``where``; ``known`` lists all valid keys."""
    parts, unknown, keys = [], [], list(known)
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        message, given = item["msg"].removeprefix("Value error, "), item["input"]
        if item["type"] in _UNKNOWN:
            unknown.append(key)
            parts.append(f"unknown key {key!r}{did_you_mean(key, keys)}")
            continue
        if item["type"] in _TEXTS and not isinstance(given, list | dict | NoneType):
            message += ": put it in quotes"
        if key and not (item["type"] == "value_error" and isinstance(given, list | dict)):
            message += f" (got {_shown(given)})"
        parts.append(f"{key}: {message}" if key else message)
    return ConfigError(f"{where}: {'; '.join(parts)}", unknown)


def kind_of(value: Any) -> str:
    """Return the YAML name for the type of a value."""
    kinds = {list: "list", str: "text", dict: "mapping", NoneType: "key without a value"}
    return kinds.get(type(value), "single value")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
