"""The model folder of ViLT and BERT together.

Its ``config.json`` names the folders of both parts, absolute or relative to the model folder::

{"model_type": "vilt-bert", "parts": {"vilt": "vilt", "bert": "bert"}}
"""

from __future__ import annotations

import json
from pathlib import Path

from feddat.models.base import ModelError
from feddat.models.folder import PARTS, read_model_type, read_parts

FAMILY = "vilt-bert"


def write_vilt_bert(folder: Path, vilt: Path, bert: Path) -> None:
    """Write a model folder that names its two parts, without copying or checking them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": FAMILY, PARTS: {"vilt": str(vilt), "bert": str(bert)}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def part_folders(folder: Path) -> tuple[Path, Path]:
    """Return the folders of ViLT and BERT.

    Raises:
        ModelError: the folder does not name both, or they hold other models.
    """
    parts = read_parts(folder)
    for name in ("vilt", "bert"):
        if name not in parts:
            raise ModelError(
                f"{folder / 'config.json'}: {PARTS} names no {name}; expected one folder each for vilt and bert"
            )
        if (found := read_model_type(parts[name])) != name:
            raise ModelError(f"{parts[name] / 'config.json'}: model_type is {found!r}; expected {name!r}")
    return parts["vilt"], parts["bert"]
