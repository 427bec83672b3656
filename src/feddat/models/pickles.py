"""Convert model folders with pickled weights to safetensors. Only tensors are read; nothing in the pickles runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from feddat.files import whole_file, write_json
from feddat.hub import Address, HubError, fetch
from feddat.models.base import ModelError
from feddat.models.folder import copy_folder, first_line, read_model_type

_ONE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
#: Files of a repository that conversion needs.
WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "pytorch_model*.bin")


def fetch_pickles(address: Address) -> Path:
    """Fetch a repository of the Hub with its pickles, and return its folder.

    Raises:
        ModelError: the repository cannot be fetched.
    """
    try:
        return fetch(address, WANTED, ["*/*"])[0]
    except HubError as error:
        raise ModelError(f"model {error}") from None


def convert_pickles(source: Path, folder: Path) -> list[str]:
    """Copy a model folder with its weights converted to safetensors; return the names of the weight files.

    Args:
        source: model folder with ``pytorch_model.bin``, or with several such files and their index.
        folder: folder to write; it must not exist, or be empty.

    Raises:
        ModelError: a file is missing or holds more than tensors, or ``folder`` is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"folder {folder}: already exists; expected a new or empty folder")
    read_model_type(source)
    names = _names(source)
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    written = []
    for number, name in enumerate(names, 1):
        state = _tensors(source / name)
        target = "model.safetensors" if len(names) == 1 else f"model-{number:05d}-of-{len(names):05d}.safetensors"
        with whole_file(folder / target) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        places |= dict.fromkeys(state, target)
        written.append(target)
    if len(names) > 1:
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    copy_folder(source, folder)
    (folder / _INDEX).unlink(missing_ok=True)
    return written


def _names(source: Path) -> list[str]:
    if (source / _ONE).is_file():
        return [_ONE]
    if not (source / _INDEX).is_file():
        raise ModelError(f"model folder {source}: has neither {_ONE} nor {_INDEX}, so there is nothing to convert")
    try:
        names = sorted(set(json.loads((source / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{source / _INDEX}: expected JSON with a weight_map from tensors to files") from None
    return [Path(str(name)).name for name in names]


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file as copies that share no memory."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"{path}: is damaged or holds more than tensors: {first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: expected a mapping from names to tensors")
    return {str(name): value.clone().contiguous() for name, value in content.items()}
