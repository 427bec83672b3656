"""Adapters that begin as exported ones: the first global one of a federation, the first local one of a client.

``adapter.start`` is the server's: every client gets that adapter as the global one of the first round, wherever it
runs. ``adapter.start_local`` is each client's own: a client that joins later still begins with a drawn local adapter,
unless it asks for this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors.torch import load_file
from torch import Tensor

from feddat.adapters.base import Adapters, check_state
from feddat.adapters.peft_form import peft_digest, read_peft
from feddat.algorithms import Algorithm
from feddat.config import AdapterConfig, ConfigError, RunConfig
from feddat.experiment.exports.folder import FUSION_FILE, ExportInfo, is_export

#: Options of PEFT that must be the same, beside the shapes.
_COMPARED = ("peft_type", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "placement", "causal")
#: Ways to begin LoRA that take something out of the frozen weights.
_CHANGE_WEIGHTS = ("pissa", "olora", "corda", "loftq")
#: Where a fusion on the shared side is in an adapter's state, and in an exported folder's file.
_FUSION, _EXPORTED_FUSION = "fusion.whole.", "0."


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter to begin with.

    Attributes:
        state: as adapters have it.
        digest: hash of the folder's files.
    """

    state: Mapping[str, Tensor]
    digest: str


def check_starts(config: AdapterConfig, algorithm: Algorithm, keys: Sequence[str]) -> None:
    """Refuse adapters to begin with that a method would not begin with.

    Args:
        config: names them.
        algorithm: the method.
        keys: of an adapter's state.

    Raises:
        ConfigError: it has no such adapter, or begins it in another way.
    """
    name = algorithm.name
    if config.start is not None:
        if "global" not in algorithm.trains and not algorithm.communicates:
            raise ConfigError(f"adapter.start: {name} has no global adapter; adapter.start_local begins a client's own")
        if algorithm.communicates and not all(map(algorithm.shares, keys)):
            raise ConfigError(f"adapter.start: {name} keeps a part of each adapter at its client, where it is drawn")
    if config.start_local is not None:
        if "local" not in algorithm.trains:
            raise ConfigError(f"adapter.start_local: {name} has no local adapter")
        if algorithm.local_from_global:
            raise ConfigError(
                f"adapter.start_local: {name}'s local adapter begins as the global one; use adapter.start"
            )


def client_starts(
    config: RunConfig, algorithm: Algorithm, adapters: Adapters, weights: str
) -> dict[str, Mapping[str, Tensor]]:
    """Return the states that adapters begin as at a client; what travels comes from the server instead.

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
    """Return the adapter in a PEFT folder: an exported one, a checkpoint, or one of PEFT's own making.

    Args:
        key: the setting, for messages.
        folder: where it lies.
        adapters: what it has to fit.
        weights: hash of the foundation model's weights.

    Raises:
        ConfigError: it cannot be read, is of another kind, of other sites or shapes, or of another model.
    """
    form = adapters.peft_form()
    if form is None:
        raise ConfigError(
            f"{key}: with this adapter.peft the model itself trains; begin from a merged one, model=FOLDER"
        )
    try:
        config, tensors = read_peft(folder)
        _check_kept_weights(config, folder)
        for option, (found, expected) in _compared(config, form.config).items():
            if found != expected:
                raise ValueError(f"folder {folder}: {option} is {found}, the run's is {expected}")
        state = form.state(tensors) | _fusion(folder)
        check_state("global", state, adapters.named("global"))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}{_hint(folder)}") from None
    if is_export(folder) and (info := ExportInfo.read(folder)).weights != weights:
        raise ConfigError(f"{key}: folder {folder}: trained on {info.model}, whose weights differ from this model's")
    return Start(state, peft_digest(folder))


def _compared(config: PeftConfig, expected: PeftConfig) -> dict[str, tuple[Any, Any]]:
    """Return what must be the same beside shapes: option -> (found, expected)."""
    found = {option: (getattr(config, option, None), getattr(expected, option, None)) for option in _COMPARED}
    if found["peft_type"][0] == found["peft_type"][1] and hasattr(expected, "lora_alpha"):
        found["scale (alpha / rank)"] = (_scale(config), _scale(expected))
    return found


def _check_kept_weights(config: PeftConfig, folder: Path) -> None:
    """Raise ``ValueError`` where an adapter began by changing the weights that it is added to, as PiSSA's do."""
    way = getattr(config, "init_lora_weights", True)
    if isinstance(way, str) and way.lower().startswith(_CHANGE_WEIGHTS):
        raise ValueError(
            f"folder {folder}: init_lora_weights {way} changes the model's own weights; have PEFT convert it to plain "
            "LoRA when it saves (path_initial_model_for_weight_conversion)"
        )


def _scale(config: Any) -> float:
    return float(config.lora_alpha / config.r)


def _fusion(folder: Path) -> dict[str, Tensor]:
    """Return a shared fusion, which an exported folder has in a file of its own."""
    if not (folder / FUSION_FILE).is_file():
        return {}
    return {
        _FUSION + key.removeprefix(_EXPORTED_FUSION): value for key, value in load_file(folder / FUSION_FILE).items()
    }


def _hint(folder: Path) -> str:
    """Say of an exported route what may be meant."""
    if is_export(folder) and (route := ExportInfo.read(folder).route) not in ("global", "local"):
        return f"; route {route} is two adapters as one: export it with --route global or local"
    return ""
