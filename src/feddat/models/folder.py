"""What every kind of Hugging Face model folder has in common."""

from __future__ import annotations

import json
from pathlib import Path

from feddat.models.base import ModelError


def read_model_type(folder: Path) -> str:
    """Return ``model_type`` of a model folder's ``config.json``.

    Raises:
        ModelError: the folder or its ``config.json`` is missing or unusable.
    """
    if not folder.is_dir():
        raise ModelError(f"model folder {folder}: no such folder")
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model folder {folder}: no config.json; expected a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path}: no model_type; expected a Hugging Face model configuration")
    model_type: str = config["model_type"]
    return model_type


def require_file(folder: Path, names: tuple[str, ...], purpose: str) -> Path:
    """Return the first of ``names`` that ``folder`` holds.

    Raises:
        ModelError: it holds none of them; the message names them and their ``purpose``.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"model folder {folder}: no {purpose}; expected {' or '.join(names)}")
