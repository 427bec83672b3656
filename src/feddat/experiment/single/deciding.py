"""The settings that determine a run's numbers; the others say where it computes and how long it waits."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from feddat.config import RunConfig
from feddat.dotted import flat
from feddat.experiment.single.places import PATIENCE_KEYS, PLACE_KEYS


def differing_keys(one: RunConfig, other: RunConfig) -> list[str]:
    """Return the dotted keys that determine a run's numbers and in which two configurations differ."""
    left, right = flat(_deciding(one)), flat(_deciding(other))
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def config_hash(config: RunConfig) -> str:
    """Return a hash of all settings that determine the run's numbers.

    Keys at their defaults are left out, so that a version with additional keys can resume the run. (The run's
    ``config.yaml`` has all keys, so it shows defaults that have changed since.)
    """
    text = json.dumps(deciding_settings(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def deciding_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that determine the run's numbers and are not at their defaults."""
    return _deciding(config, exclude_defaults=True)


def _deciding(config: RunConfig, exclude_defaults: bool = False) -> dict[str, Any]:
    exclude: dict[str, Any] = dict.fromkeys(PLACE_KEYS, True) | {"server": set(PATIENCE_KEYS)}
    return config.model_dump(mode="json", exclude=exclude, exclude_defaults=exclude_defaults)
