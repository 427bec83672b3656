"""A configuration from a YAML file and from ``key=value`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from feddat.config.run import SHORT, ConfigError, RunConfig, assign, validated
from feddat.hub import local_or_named


def load_config(path: Path | str | None = None, overrides: list[str] | None = None, **values: Any) -> RunConfig:
    """Build a configuration from a YAML file, ``key=value`` overrides and keyword values, in that order of precedence.

    Relative paths inside ``clients`` are taken relative to the YAML file's folder.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value does not fit.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        raw = _read_yaml(path)
        for section, key in SHORT.items():
            if isinstance(raw.get(section), str):
                raw[section] = {key: raw[section]}
        for client in (raw.get("clients") or {}).values():
            if not isinstance(client, dict):
                continue
            # With a format, train, validation and test are names of its splits.
            for key in ("root",) if client.get("format") else ("train", "validation", "test", "images"):
                if isinstance(client.get(key), str):
                    client[key] = local_or_named(path.parent, client[key], client.get("format"))
        if raw.get("clients") and "benchmark" not in raw:
            raw["benchmark"] = None
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {item!r}: expected key=value, for example train.lr=1e-3")
        assign(raw, key.split("."), parse_scalar(value))
    for key, value in values.items():
        assign(raw, key.split("."), value)
    return validated(raw, path)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path}: expected keys and values at the top level")
    return raw


class _Plain(yaml.SafeLoader):
    """Reads values without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("a value has a YAML alias (*name); write it out")
        return super().compose_node(parent, index)


def parse_scalar(value: str) -> Any:
    """Read one value of the command line, or of a message, as YAML does, with ``1e-3`` as a number.

    Raises:
        ConfigError: it has aliases, by which a few lines stand for gigabytes; or is nested or numbered beyond reading.
    """
    try:
        parsed = yaml.load(value, _Plain)
    except yaml.YAMLError:
        return value
    except ConfigError:
        raise
    except (RecursionError, ValueError) as error:  # [[[[…, or a number of thousands of digits
        raise ConfigError(f"value {value[:40]!r}…: cannot be read: {type(error).__name__}") from None
    if isinstance(parsed, str):
        # YAML 1.1 reads 1e-3 as text: it wants 1.0e-3, which nobody types.
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed
