"""Functions for Hugging Face model folders of all families."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from feddat.models.base import ModelError

#: Optional files of a folder that determine how images and texts are encoded for the model.
ENCODING_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)
#: Entries of ``config.json`` that describe the origin of a model and do not affect encoding.
_PROVENANCE = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"})
#: Entry of ``config.json`` with the folders of a model's parts.
PARTS = "parts"
#: Versions for all families and for single families. They change whenever the same files yield other pixels or tokens.
_ENCODING_VERSION = "2"
_FAMILY_VERSIONS = {
    "siglip": "lower-case",
    **dict.fromkeys(("internvl", "aya_vision", "qianfan_ocr"), "tiles"),
    **dict.fromkeys(("gemma3", "gemma3n"), "types"),
}


def read_model_type(folder: Path) -> str:
    """Return ``model_type`` of a model folder's ``config.json``.

    Raises:
        ModelError: the folder or its ``config.json`` is missing or unusable.
    """
    model_type: str = read_config(folder)["model_type"]
    return model_type


def fingerprint(folder: Path) -> str:
    """Return a hash of everything that determines how a model folder encodes images and texts, without its weights.

    Raises:
        ModelError: the folder or its ``config.json`` is missing or unusable.
    """
    config = {key: value for key, value in read_config(folder).items() if key not in {*_PROVENANCE, PARTS}}
    version = _ENCODING_VERSION + _FAMILY_VERSIONS.get(config["model_type"], "")
    digest = hashlib.blake2b(f"{version}{json.dumps(config, sort_keys=True)}".encode(), digest_size=16)
    for name in ENCODING_FILES:
        if (folder / name).is_file():
            digest.update(name.encode() + hashlib.blake2b((folder / name).read_bytes()).digest())
    for name, part in sorted(read_parts(folder).items()):
        digest.update(f"{name}{fingerprint(part)}".encode())
    return digest.hexdigest()


def read_parts(folder: Path) -> dict[str, Path]:
    """Return the folders of the models that a model consists of. Most models have no such parts.

    ``config.json`` names them under ``parts``: name -> path, absolute or relative to the folder.

    Raises:
        ModelError: the folder or its ``config.json`` is missing or unusable.
    """
    parts = read_config(folder).get(PARTS, {})
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise ModelError(f"{folder / 'config.json'}: {PARTS}: expected a mapping from names to paths of model folders")
    return {name: folder / part for name, part in parts.items()}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a model folder's ``config.json``.

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
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path}: no model_type; expected a Hugging Face model configuration")
    return config


def require_file(folder: Path, names: tuple[str, ...], purpose: str) -> Path:
    """Return the path of the first of ``names`` that exists in ``folder``.

    Raises:
        ModelError: none exists; the message names them and their ``purpose``.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"model folder {folder}: no {purpose}; expected {' or '.join(names)}")


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a model folder; pickles only if there are no safetensors. Copying onto itself does nothing."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"):
        if pattern.endswith(".bin") and any(target.glob("*.safetensors")):
            continue
        for path in source.glob(pattern):
            if not (target / path.name).exists() or not path.samefile(target / path.name):
                shutil.copyfile(path, target / path.name)


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
