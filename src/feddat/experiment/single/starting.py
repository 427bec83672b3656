"""Initialise adapters from exported ones: the global adapter of a federation, or the local adapter of a client.

``adapter.start`` belongs to the server: every client receives that adapter as the global adapter of the first round,
wherever the client runs. ``adapter.start_local`` belongs to each client: without it, a client that joins later starts
with a random local adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from torch import Tensor

from feddat.adapters.base import Adapters, check_state
from feddat.adapters.peft_form import PREFIX, peft_digest, read_peft
from feddat.algorithms import Algorithm
from feddat.config import AdapterConfig, ConfigError, RunConfig
from feddat.experiment.exports.folder import FUSION_FILE, ExportInfo, is_export
from feddat.tensorfile import read_tensors

#: PEFT options that must match, besides the shapes.
_COMPARED = ("peft_type", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "placement", "causal")
#: LoRA initialisations that subtract from the frozen weights.
_CHANGE_WEIGHTS = ("pissa", "olora", "corda", "loftq")
#: Key prefix of a shared fusion in an adapter's state, and in the file of an exported folder.
_FUSION, _EXPORTED_FUSION = "fusion.whole.", "0."


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter to start from.

    Attributes:
        state: state of the adapter.
        digest: hash of the folder's files.
    """

    state: Mapping[str, Tensor]
    digest: str


def check_starts(config: AdapterConfig, algorithm: Algorithm, keys: Sequence[str]) -> None:
    """Refuse initial adapters that a method would not use.

    Args:
        config: configuration that names them.
        algorithm: the method.
        keys: keys of an adapter's state.

    Raises:
        ConfigError: the method has no such adapter, or initialises it in another way.
    """
    name = algorithm.name
    if config.start is not None:
        if "global" not in algorithm.trains and not algorithm.communicates:
            raise ConfigError(f"adapter.start: {name} has no global adapter; adapter.start_local sets a client's own")
        if algorithm.communicates and not all(map(algorithm.shares, keys)):
            raise ConfigError(f"adapter.start: {name} keeps a part of each adapter at its client, which initialises it")
    if config.start_local is not None:
        if "local" not in algorithm.trains:
            raise ConfigError(f"adapter.start_local: {name} has no local adapter")
        if algorithm.local_from_global:
            raise ConfigError(
                f"adapter.start_local: {name}'s local adapter starts as the global one; use adapter.start"
            )


def client_starts(
    config: RunConfig, algorithm: Algorithm, adapters: Adapters, weights: str
) -> dict[str, Mapping[str, Tensor]]:
    """Return the initial states of adapters at a client; adapters that travel come from the server instead.

    Raises:
        ConfigError: a folder cannot be used.
    """
    found = {}
    if config.adapter.start is not None and not algorithm.communicates:
        found["global"] = read_start("adapter.start", config.adapter.start, adapters, weights).state
    if config.adapter.start_local is not None:
        found["local"] = read_start("adapter.start_local", config.adapter.start_local, adapters, weights).state
    return found


def read_start(key: str, folder: Path, adapters: Adapters, weights: str) -> Start:
    """Return the adapter in a PEFT folder: an exported adapter, a checkpoint, or one that PEFT saved.

    Args:
        key: the setting, for messages.
        folder: folder of the adapter.
        adapters: the adapters that it must match.
        weights: hash of the foundation model's weights.

    Raises:
        ConfigError: the adapter cannot be read, or has another kind, other sites or shapes, or another model.
    """
    form = adapters.peft_form()
    if form is None:
        raise ConfigError(
            f"{key}: this adapter.peft trains the model itself; start from a merged model with model=FOLDER"
        )
    try:
        config, tensors = read_peft(folder)
        _check_kept_weights(config, folder)
        for option, (found, expected) in _compared(config, form.config).items():
            if found != expected:
                raise ValueError(f"folder {folder}: {option} is {found}, but the run has {expected}")
        state = form.state(_without_prefix(tensors, set(form.names.values()), config, folder)) | _fusion(folder)
        try:
            check_state("global", state, adapters.named("global"))
        except ValueError as error:
            raise ValueError(f"folder {folder}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error}{_hint(folder)}") from None
    if is_export(folder) and (info := ExportInfo.read(folder)).weights != weights:
        raise ConfigError(
            f"{key}: folder {folder}: trained on {info.model} (weights={info.format}), whose weights differ from this "
            "model's"
        )
    return Start(state, peft_digest(folder))


def _without_prefix(
    tensors: Mapping[str, Tensor], expected: Set[str], config: PeftConfig, folder: Path
) -> Mapping[str, Tensor]:
    """Return tensors under the expected names: without the name of the model inside a task model, if all have it.

    Raises:
        ValueError: a name does not fit.
    """
    first = min(tensors, default="").removeprefix(PREFIX)
    for dot in [-1, *(match.start() for match in re.finditer(r"\.", first))]:
        inside = PREFIX + first[: dot + 1]
        if PREFIX + first[dot + 1 :] in expected and all(name.startswith(inside) for name in tensors):
            tensors = {PREFIX + name.removeprefix(inside): value for name, value in tensors.items()}
            break
    if foreign := min(tensors.keys() - expected, default=None):
        if whole := getattr(config, "modules_to_save", None):
            raise ValueError(
                f"folder {folder}: it also holds modules that trained whole ({', '.join(whole)}); a run cannot take "
                "these, so save it without modules_to_save"
            )
        raise ValueError(f"folder {folder}: the run has no place for {foreign}: other sites, or another model")
    return tensors


def _compared(config: PeftConfig, expected: PeftConfig) -> dict[str, tuple[Any, Any]]:
    """Return the options that must match besides shapes: option -> (found, expected)."""
    found = {option: (getattr(config, option, None), getattr(expected, option, None)) for option in _COMPARED}
    if found["peft_type"][0] == found["peft_type"][1] and hasattr(expected, "lora_alpha"):
        found["scale (alpha / rank)"] = (_scale(config), _scale(expected))
    return found


def _check_kept_weights(config: PeftConfig, folder: Path) -> None:
    """Raise ``ValueError`` if the adapter's initialisation changed the weights of the model, as PiSSA does."""
    way = getattr(config, "init_lora_weights", True)
    if isinstance(way, str) and way.lower().startswith(_CHANGE_WEIGHTS):
        raise ValueError(
            f"folder {folder}: init_lora_weights {way} changes the model's own weights; save it as plain LoRA with "
            "PEFT (path_initial_model_for_weight_conversion)"
        )


def _scale(config: Any) -> float:
    return float(config.lora_alpha / config.r)


def _fusion(folder: Path) -> dict[str, Tensor]:
    """Return the shared fusion, which is in a separate file of an exported folder; empty if there is none.

    Raises:
        TensorFileError: the file cannot be read.
    """
    if not (folder / FUSION_FILE).is_file():
        return {}
    tensors = read_tensors(folder / FUSION_FILE)
    return {_FUSION + key.removeprefix(_EXPORTED_FUSION): value for key, value in tensors.items()}


def _hint(folder: Path) -> str:
    """Return a hint if the folder is an export of a route that combines adapters."""
    if is_export(folder) and (route := ExportInfo.read(folder).route) not in ("global", "local"):
        return f"; route {route} combines two adapters; export a route with one adapter, such as global"
    return ""
