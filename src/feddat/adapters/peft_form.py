"""One adapter in PEFT's format on disk: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from feddat.adapters.peft_internals import tuner_prefix
from feddat.hub import HubError, parse_address
from feddat.tensorfile import read_tensors

#: The files of a PEFT folder.
CONFIG_FILE, WEIGHTS_FILE = CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
#: Prefix of the names of a model's own parameters in PEFT's files.
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class PeftForm:
    """The information that turns an adapter's state into a PEFT adapter.

    Attributes:
        config: PEFT's configuration of the adapter.
        names: an entry's name in the state -> its name in PEFT's file.
    """

    config: PeftConfig
    names: Mapping[str, str]

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state, or part of one, under PEFT's names."""
        return {self.names[key]: value for key, value in state.items()}

    def state(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a PEFT file under the names of states; tensors without such a name keep their own."""
        own = {name: key for key, name in self.names.items()}
        return {own.get(name, name): value for name, value in tensors.items()}


def hub_name(model: str) -> tuple[str, str | None] | None:
    """Return a model's name on the Hub and its revision (if given), or ``None`` for bundled names and folders."""
    if Path(model).expanduser().is_dir():
        return None
    try:
        address = parse_address(model, "model")
    except HubError:
        return None
    return None if address is None else (address.name, address.revision)


def save_config(folder: Path, config: PeftConfig, base: str | None, model_class: type | None = None) -> None:
    """Write ``adapter_config.json``.

    Args:
        folder: an existing folder.
        config: the adapter's configuration.
        base: the adapter's base model: a name (on the Hub with ``@revision``) or a folder.
        model_class: transformers' class of that model, for ``AutoPeftModel``.
    """
    config = copy.deepcopy(config)
    name, revision = (None if base is None else hub_name(base)) or (base, None)
    config.base_model_name_or_path, config.revision, config.inference_mode = name, revision, True
    if model_class is not None:
        config.auto_mapping = {"base_model_class": model_class.__name__, "parent_library": model_class.__module__}
    config.save_pretrained(str(folder))


def save_peft(
    folder: Path, form: PeftForm, state: Mapping[str, Tensor], base: str | None, model_class: type | None = None
) -> None:
    """Write both files of an adapter into an existing folder; see :func:`save_config`."""
    save_config(folder, form.config, base, model_class)
    tensors = {name: value.detach().cpu().contiguous() for name, value in form.tensors(state).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_peft(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Return the contents of a PEFT folder: the configuration, and the tensors under PEFT's names.

    Raises:
        ValueError: a file is missing or cannot be read; the message names it.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"folder {folder}: no {name}; expected the folder of a PEFT adapter")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT raises many kinds for unknown types and values
        raise ValueError(f"{folder / CONFIG_FILE}: not a PEFT configuration: {' '.join(str(error).split())}") from error
    return config, read_tensors(folder / WEIGHTS_FILE)


def put_peft(model: nn.Module, config: PeftConfig, tensors: Mapping[str, Tensor]) -> PeftModel:
    """Put an adapter into a model in place, and return PEFT's wrapper; the adapter does not train.

    Raises:
        ValueError: the model has no place for a tensor, has a different shape there, or a tensor is missing.
    """
    config = copy.deepcopy(config)
    config.inference_mode = True
    try:
        wrapped = PeftModel(model, config)
        found: Any = set_peft_model_state_dict(wrapped, dict(tensors))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter does not fit the model: {' '.join(str(error).split())}") from error
    prefix = tuner_prefix(config)
    missing = [key for key in found.missing_keys if prefix in key]
    if missing or found.unexpected_keys:
        what = f"{missing[0]} is missing" if missing else f"the model has no place for {found.unexpected_keys[0]}"
        raise ValueError(f"the adapter does not fit the model: {what}")
    return wrapped


def peft_digest(folder: Path) -> str:
    """Return a hash of the two files of a PEFT folder."""
    digest = hashlib.blake2b(digest_size=16)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()
