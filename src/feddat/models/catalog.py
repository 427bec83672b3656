"""Which foundation models there are, by name or by folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from feddat.models.base import Backbone, ModelError
from feddat.models.folder import read_model_type

#: Models inside the package (``assets/NAME``): name -> description.
BUNDLED: Mapping[str, str] = {
    "vilt-mini": "small ViLT for demos and tests, pretrained on generated pictures and sentences",
}


def _load_vilt(folder: Path, name: str) -> Backbone:
    from feddat.models.vilt import ViltBackbone  # transformers takes seconds to import

    return ViltBackbone(folder, name)


#: ``model_type`` of a Hugging Face folder -> what reads it.
FAMILIES: Mapping[str, Callable[[Path, str], Backbone]] = {"vilt": _load_vilt}


def list_models() -> dict[str, str]:
    """Return the bundled models: name -> description."""
    return dict(BUNDLED)


def load_backbone(name_or_path: str) -> Backbone:
    """Load a bundled model by name, or a Hugging Face folder by path; nothing is downloaded.

    Raises:
        ModelError: there is no such model, or the folder is incomplete or of an unsupported family.
    """
    if name_or_path in BUNDLED:
        folder = Path(str(resources.files("feddat.models"))) / "assets" / name_or_path
    else:
        folder = Path(name_or_path).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"model {name_or_path!r}: neither a bundled model ({', '.join(sorted(BUNDLED))}) nor an existing folder"
            )
    model_type = read_model_type(folder)
    if model_type not in FAMILIES:
        raise ModelError(
            f"model folder {folder}: model_type {model_type!r} is not supported; expected {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type](folder, name_or_path)
