"""A run's configuration as Flower carries it: one flat table of text, numbers and truth values.

Every key of :class:`~feddat.config.RunConfig` is a key there, with dots between section and name (``train.lr``). What
TOML cannot say is text: nothing is ``""``; lists and tables are YAML in brackets, ``"[0.9, 0.98]"``. Beside them stand
the options of ``feddat run``: ``resume``, ``overwrite`` and ``accept_changes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from feddat.config import ConfigError, RunConfig, load_config, parse_scalar

#: What Flower takes for a value of a run's configuration.
Flat: TypeAlias = dict[str, bool | int | float | str]
OPTIONS = ("resume", "overwrite", "accept_changes")
#: Sections whose content is one value: their keys are names that the user gives.
_TABLES = ("clients", "revisions", "server.options", "server.agreed_examples")


@dataclass(frozen=True)
class AppConfig:
    """What the ServerApp is told: the run, and what to do where its folder is not empty."""

    run: RunConfig
    resume: bool = False
    overwrite: bool = False
    accept_changes: bool = False


def to_flat(config: AppConfig) -> Flat:
    """Return a configuration as Flower carries it."""
    return _flat(config.run.model_dump(mode="json")) | {option: getattr(config, option) for option in OPTIONS}


def from_flat(flat: Mapping[str, Any]) -> AppConfig:
    """Return the configuration that Flower carried here.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    options = {option: flat.get(option, False) for option in OPTIONS}
    for option, value in options.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{option}: expected true or false, got {value!r}")
    values = {key: _value(value) for key, value in flat.items() if key not in OPTIONS}
    return AppConfig(load_config(None, None, **values), **options)


def to_toml(flat: Flat) -> str:
    """Return the lines of a TOML table."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in flat.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Flat:
    flat: Flat = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict) and key not in _TABLES:
            flat |= _flat(value, f"{key}.")
        elif value is None:
            flat[key] = ""
        else:
            flat[key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def _value(value: Any) -> Any:
    if value == "":
        return None
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return parse_scalar(value)
    return value
