"""A configuration that means the same wherever and whenever its run is resumed.

Names on the Hub are pinned to commits, paths become absolute, and the precision is that of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feddat.benchmarks import list_benchmarks
from feddat.benchmarks.medical import MEDICAL, pin_revisions
from feddat.config import RunConfig
from feddat.data.readers.hub_data import pin_data
from feddat.hub import located
from feddat.models.catalog import list_models
from feddat.models.named import pin_model
from feddat.precision import resolve_precision


def pinned(config: RunConfig) -> RunConfig:
    """Return the configuration with every name on the Hub pinned to one commit.

    Raises:
        ModelError: a model is not available.
        DataError: a dataset is not available.
    """
    changes: dict[str, Any] = {}
    if config.model not in list_models():
        changes["model"] = pin_model(config.model)
    if config.benchmark is not None and config.benchmark in MEDICAL:
        changes["revisions"] = pin_revisions(config.benchmark, config.revisions)
    if config.clients is not None:
        changes["clients"] = {name: pin_data(spec) for name, spec in config.clients.items()}
    return config.model_copy(update=changes)


def portable(config: RunConfig) -> RunConfig:
    """Return the configuration with names, paths and precision that are the same wherever the run is resumed.

    Raises:
        ModelError: a model is not available.
        DataError: a dataset is not available.
    """
    config = pinned(config)
    model = Path(config.model).expanduser()
    changes: dict[str, Any] = {}
    if config.model not in list_models() and model.is_dir():
        changes["model"] = str(model.resolve())
    if config.benchmark is not None and config.benchmark not in list_benchmarks() and Path(config.benchmark).is_dir():
        changes["benchmark"] = str(Path(config.benchmark).resolve())
    for key in ("root", "data_cache"):
        if (path := getattr(config, key)) is not None:
            changes[key] = path.expanduser().resolve()
    if config.clients is not None:
        # Clients can repeat the run's model, which all clients share.
        changes["clients"] = {name: _portable_client(spec) for name, spec in config.clients.items()}
    if config.runtime.server is not None:
        changes["runtime"] = config.runtime.model_copy(update={"server": config.runtime.server.expanduser().resolve()})
    precision = resolve_precision(config.train.precision, config.device)
    starts = {key: getattr(config.adapter, key) for key in ("start", "start_local")}
    absolute = {key: path.expanduser().resolve() for key, path in starts.items() if path is not None}
    changes["adapter"] = config.adapter.model_copy(update=absolute)
    changes["train"] = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update=changes)


def _portable_client(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a client's specification with absolute paths."""
    return located({key: value for key, value in spec.items() if key != "model"}, Path())
