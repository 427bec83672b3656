"""The settings in words, from the models that validate them: every key, its default and the values that it takes.

Texts are Markdown, in which values stand in single marks.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def every_key(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key below a model, with its field."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            yield from every_key(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def default_of(field: FieldInfo) -> str:
    """Return a key's default in YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, dict) and len(value) > 4:
        return "[a table](../security.md#bounds)"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Path | str):
        return f"`{value}`"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def range_of(field: FieldInfo) -> str:
    """Return the allowed values of a key: its choices, or its kind of value with bounds."""
    return _bounded(_kind(field.annotation), field.metadata)


def _bounded(kind: str, metadata: list[Any]) -> str:
    """Return a kind of value with the bounds among a field's metadata (``Ge``, ``Gt``, ``Le``, ``Lt``)."""
    signs = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
    names = [(type(item).__name__, item) for item in metadata]
    bounds = [f"{signs[name]} {getattr(item, name.lower()):g}" for name, item in names if name in signs]
    return ", ".join([kind, *bounds]) if kind else ", ".join(bounds)


def _kind(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [part for item in inside[1:] for part in getattr(item, "metadata", [item])]
        return _bounded(_kind(inside[0]), metadata)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        kinds = [_kind(part) for part in inside if part is not type(None)]
        return " or ".join(kinds)
    if origin in (tuple, list):
        return "list of " + _kind(inside[0])
    if origin is dict:
        return "mapping"
    names = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
