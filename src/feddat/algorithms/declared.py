"""Check what a method declares in its class, so that a mistake is one line before a run starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from inspect import isclass
from typing import Any

from feddat.adapters.base import ROUTES
from feddat.algorithms.base import Algorithm
from feddat.algorithms.server import ServerPart
from feddat.config import AlgorithmConfig, ConfigError
from feddat.kinds import KINDS

#: Attributes that a method must set.
_REQUIRED = ("name", "trains", "routes")
#: Names that clients give to their own counts, beside what a method logs.
_COUNTS = ("examples", "steps", "seconds", "forward", "backward", "gradient norm")
#: Attributes with names from a fixed set -> that set.
_NAMES: dict[str, Collection[str] | None] = {
    "trains": ("global", "local"),
    "keeps": ("local", "anchor"),
    "routes": None,
    "logs": None,
    "reads": tuple(AlgorithmConfig.model_fields),
    "kinds": tuple(KINDS),
}
_SWITCHES = (
    "communicates", "centralised", "reads_features", "trains_head_alone", "logs_below_zero", "trains_extras",
    "hides_gradients", "local_from_global",
)  # fmt: skip


def check_declared(method: type[Algorithm], where: str) -> None:
    """Check the class attributes of a method.

    Args:
        method: the method's class.
        where: which method it is, for messages.

    Raises:
        ConfigError: an attribute is missing or has a value that the method cannot work with; names the attribute.
    """
    if missing := [f"`{attribute}`" for attribute in _REQUIRED if not hasattr(method, attribute)]:
        raise ConfigError(f"{where}: expected the class attributes {' and '.join(missing)}")
    for problem in _problems(method):
        raise ConfigError(f"{where}: {problem}")


def _problems(method: type[Algorithm]) -> Iterator[str]:
    if not isinstance(method.name, str) or not method.name:
        yield f"`name`: expected a text, got {method.name!r}"
    for attribute, known in _NAMES.items():
        yield from _names(attribute, getattr(method, attribute), known)
    if not method.routes:
        yield "`routes`: expected at least one route"
    if method.answer is Algorithm.answer:
        for route in method.routes:
            if route not in ROUTES:
                yield f"`routes`: {route!r} is none of {', '.join(ROUTES)}; a method with other routes defines `answer`"
    for name in method.logs:
        if name in _COUNTS:
            yield f"`logs`: {name!r} is what clients call a count of their own; choose another name"
    if "loss" not in method.logs:
        yield f"`logs`: expected 'loss' among the names, got {method.logs!r}"
    if method.sends not in ("global", "local"):
        yield f"`sends`: expected 'global' or 'local', got {method.sends!r}"
    for attribute in _SWITCHES:
        if not isinstance(value := getattr(method, attribute), bool):
            yield f"`{attribute}`: expected True or False, got {value!r}"
    part: Any = method.server
    if part is not None and not isinstance(part, ServerPart):
        hint = "; it is a class, so write its name with ()" if isclass(part) and issubclass(part, ServerPart) else ""
        yield f"`server`: expected an object of a subclass of feddat.algorithms.server.ServerPart, got {part!r}{hint}"


def _names(attribute: str, value: Any, known: Collection[str] | None) -> Iterator[str]:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        example = f"; write ({value!r},)" if isinstance(value, str) else ""
        yield f"`{attribute}`: expected a tuple of names, got {value!r}{example}"
        return
    for place, name in enumerate(value):
        if name in value[:place]:
            yield f"`{attribute}`: {name!r} occurs twice"
        if not isinstance(name, str) or (known is not None and name not in known):
            among = f" among {', '.join(known)}" if known is not None else ""
            yield f"`{attribute}`: expected names{among}, got {name!r}"
