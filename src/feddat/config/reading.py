"""Read a configuration from a YAML file and from ``key=value`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feddat.config.errors import ConfigError
from feddat.config.recommended import recommended
from feddat.config.run import SHORT, RunConfig, assign, takes_text, validated
from feddat.hub import located
from feddat.yaml_files import YamlError, parse_yaml, read_yaml


def load_config(path: Path | str | None = None, overrides: list[str] | None = None, **values: Any) -> RunConfig:
    """Build a configuration from a YAML file, ``key=value`` overrides and keyword values; the later source wins.

    Instead of a file, ``path`` can be the name of one of the :func:`presets`, if no file has that name.
    Relative paths inside ``clients`` are resolved against the YAML file's folder. Settings that no source gives come
    from the bundled model (:mod:`feddat.config.recommended`), else from the defaults of :class:`RunConfig`.

    Raises:
        ConfigError: the file is missing, empty or not YAML, a key is unknown, or a value is invalid.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        path = _file(Path(path))
        raw = _read_yaml(path)
        for section, key in SHORT.items():
            if isinstance(raw.get(section), str):
                raw[section] = {key: raw[section]}
        clients = raw.get("clients")
        if "clients" in raw and not clients and "benchmark" not in raw:
            raise ConfigError(f"config file {path}: clients: is empty; name at least one client, or leave the key out")
        for client in clients.values() if isinstance(clients, dict) else ():
            if isinstance(client, dict):
                client.update(located(client, path.parent))
        if clients and "benchmark" not in raw:
            raw["benchmark"] = None
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            preset = key in presets() or key.endswith((".yaml", ".yml"))
            hint = f"; --config {key} reads settings from it" if preset else ""
            raise ConfigError(f"override {item!r}: expected key=value, for example train.lr=1e-3{hint}")
        parsed = parse_scalar(value)
        # The shell removes quotes, so for keys that take text, `name=3` and `name=no` are text.
        as_text = parsed is not None and not isinstance(parsed, str | list | dict) and takes_text(key)
        assign(raw, key.split("."), value if as_text else parsed)
    for key, value in values.items():
        assign(raw, key.split("."), value)
    for key, value in recommended(raw, str(raw.get("model", RunConfig.model_fields["model"].default))).items():
        assign(raw, key.split("."), value)
    return validated(raw, path)


def presets() -> dict[str, Path]:
    """Return the bundled files of settings by name."""
    folder = Path(__file__).parents[1] / "presets"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _file(path: Path) -> Path:
    if path.is_file() or path.name != str(path):
        return path
    return presets().get(path.name, path)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except OSError as error:
        known = "" if path.suffix else f"; bundled settings are {', '.join(presets())}"
        raise ConfigError(f"config file {path}: {error.strerror}{known}") from None
    except YamlError as error:
        raise ConfigError(f"config file {path}: {error}") from None
    if not raw and (raw is None or isinstance(raw, dict)):
        raise ConfigError(
            f"config file {path}: contains no settings; expected at least one, for example `clients:` or `benchmark:`"
        )
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path}: expected keys and values at the top level")
    return raw


def parse_scalar(value: str) -> Any:
    """Parse one value from the command line or from a message as YAML, but ``1e-3`` as a number.

    Raises:
        ConfigError: the value begins like a list or a mapping but is not a valid one. Aliases are invalid, since with
            them a few lines can expand to many.
    """
    try:
        parsed = parse_yaml(value, aliases=False)
    except YamlError as error:
        if value.lstrip()[:1] in ("[", "{"):
            raise ConfigError(f"value {value[:60]!r}: {error}") from None
        return value
    if isinstance(parsed, str):
        # YAML 1.1 parses 1e-3 as text; it requires 1.0e-3, which nobody types.
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed
