"""A run's configuration in Flower's form: one flat table of text, numbers and booleans.

Every key of :class:`~feddat.config.RunConfig` is a key of the table, with a dot between section and name
(``train.lr``). Values that TOML cannot express are text: ``None`` is ``""``, and lists and mappings are YAML in
brackets, ``"[0.9, 0.98]"``. The table also has the options of ``feddat run``: ``resume``, ``overwrite`` and
``accept_changes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from feddat.config import ConfigError, RunConfig, parse_scalar
from feddat.config.run import assign, validated
from feddat.experiment.single.places import CLIENTS_OWN

#: A run's configuration with values of the types that Flower supports.
Flat: TypeAlias = dict[str, bool | int | float | str]
OPTIONS = ("resume", "overwrite", "accept_changes")
#: Sections that are a single value in the table, since the user chooses their keys.
_TABLES = ("clients", "revisions", "server.options", "server.agreed_examples")
#: Limits on a server's settings: keys, characters in a key, characters in a value, and brackets in a value, since
#: nested brackets are slow to parse.
_MOST_KEYS, _LONGEST_KEY, _LONGEST, _MOST_BRACKETS = 1000, 100, 4096, 64


@dataclass(frozen=True)
class AppConfig:
    """The configuration of the ServerApp: the run, and what to do if its folder is not empty."""

    run: RunConfig
    resume: bool = False
    overwrite: bool = False
    accept_changes: bool = False


def to_flat(config: AppConfig) -> Flat:
    """Return a configuration in Flower's form."""
    return _flat(config.run.model_dump(mode="json")) | {option: getattr(config, option) for option in OPTIONS}


def from_flat(flat: Mapping[str, Any]) -> AppConfig:
    """Return the configuration from Flower's form.

    Raises:
        ConfigError: a key is unknown or a value is invalid.
    """
    options = {option: flat.get(option, False) for option in OPTIONS}
    for option, value in options.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{option}: expected true or false, got {value!r}")
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        if key not in OPTIONS:
            assign(settings, key.split("."), _value(value))
    return AppConfig(validated(settings, None), **options)


def asked_settings(flat: Mapping[str, Any]) -> RunConfig:
    """Return the settings that a server asks of a client, without the settings that the client chooses itself.

    They name no client yet; the client's own file does.

    Raises:
        ConfigError: a key is unknown, a value is invalid, or the settings exceed the limits.
    """
    if len(flat) > _MOST_KEYS:
        raise ConfigError(f"{len(flat)} settings, expected at most {_MOST_KEYS}")
    asked = {key: value for key, value in flat.items() if key not in OPTIONS and not _is_clients_own(key)}
    for key, value in asked.items():
        if len(key) > _LONGEST_KEY:
            raise ConfigError(f"{key[:_LONGEST_KEY]}: key is longer than {_LONGEST_KEY} characters")
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ConfigError(f"{key}: value is longer than {_LONGEST} characters")
        if _is_yaml(value) and value.count("[") + value.count("{") > _MOST_BRACKETS:
            raise ConfigError(f"{key}: value has more than {_MOST_BRACKETS} brackets")
    settings: dict[str, Any] = {"benchmark": None, "clients": {}}
    for key, value in asked.items():
        try:
            read = _value(value)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
        assign(settings, key.split("."), read)
    return validated(settings, None)


def check_complete(flat: Mapping[str, Any]) -> None:
    """Check that a server's settings have every key, so that the client's defaults never fill one in.

    Raises:
        ConfigError: keys are missing; the message names the first ones.
    """
    usual = asked_values(asked_settings({}))
    if missing := sorted(key for key in usual if key not in flat):
        raise ConfigError(
            f"{', '.join(missing[:3])}: missing in the run's settings; the server has another version of feddat"
        )


def asked_values(settings: RunConfig) -> Flat:
    """Return all settings of :func:`asked_settings` in Flower's form."""
    return {key: value for key, value in _flat(settings.model_dump(mode="json")).items() if not _is_clients_own(key)}


def to_toml(flat: Flat) -> str:
    """Return the table as lines of TOML."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in flat.items())


def _is_clients_own(key: str) -> bool:
    return key in CLIENTS_OWN or key.partition(".")[0] in CLIENTS_OWN


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
    return parse_scalar(value) if _is_yaml(value) else value


def _is_yaml(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("[", "{")
