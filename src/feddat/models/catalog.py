"""Find and load foundation models by name or by folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from feddat.allocator import return_large_blocks
from feddat.models.base import Backbone, Encoder, ModelError
from feddat.models.folder import fingerprint, first_line, read_model_type
from feddat.models.named import model_address, named_folder

if TYPE_CHECKING:
    from feddat.models.number_formats import Format

#: Models inside the package (``assets/NAME``): name -> description.
BUNDLED: Mapping[str, str] = {
    "vilt-mini": "small ViLT for demos and tests, pretrained on generated pictures and sentences",
    "albef-mini": "small ALBEF that writes its answers, pretrained on the same pictures, sentences and questions",
}

#: ``model_type`` of the tested decoder vision-language models; others are compared with transformers as they load.
DECODERS = ("smolvlm", "idefics3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma", "llava")
#: Backbone and encoder of a family, as MODULE:CLASS below ``feddat.models``. Their modules import transformers, which
#: takes seconds, so they are imported when they are needed.
Classes: TypeAlias = tuple[str, str]
_DECODER: Classes = ("decoder.backbone:DecoderBackbone", "decoder.encoder:DecoderEncoder")
_TWO_TOWERS: Classes = ("two_towers.backbone:TwoTowersBackbone", "two_towers.encoder:TwoTowersEncoder")
#: ``model_type`` of a Hugging Face folder -> backbone, which takes the folder and the model's name, and encoder, which
#: takes the folder.
FAMILIES: Mapping[str, Classes] = {
    "vilt": ("vilt.backbone:ViltBackbone", "vilt.encoder:ViltEncoder"),
    "blip": ("blip.backbone:BlipBackbone", "blip.encoder:BlipEncoder"),
    "albef": ("albef.backbone:AlbefBackbone", "albef.encoder:AlbefEncoder"),
    "vilt-bert": ("vilt_bert.backbone:ViltBertBackbone", "vilt_bert.encoder:ViltBertEncoder"),
    "clip": _TWO_TOWERS,
    "siglip": _TWO_TOWERS,
    **dict.fromkeys(DECODERS, _DECODER),
}


def list_models() -> dict[str, str]:
    """Return the bundled models: name -> description."""
    return dict(BUNDLED)


def load_backbone(name_or_path: str, weights: Format = "fp32", device: str = "cpu") -> Backbone:
    """Load a bundled model by name, a Hugging Face folder by path, or a model of the Hub by its name there.

    Afterwards this process returns the memory of large tensors to the operating system (:mod:`feddat.allocator`).

    Args:
        name_or_path: name or path of the model.
        weights: number format of the frozen weights; only decoder vision-language models support others than float32.
        device: device to which weights in another format go directly.

    Raises:
        ModelError: the model does not exist, its folder is incomplete, or its family or this format is not supported.
    """
    folder = model_folder(name_or_path)
    family = _family(folder)
    return_large_blocks()
    from feddat.models.attention import use_in_transformers  # takes seconds to import

    use_in_transformers()
    if weights != "fp32" and family != _DECODER:
        raise ModelError(
            f"weights: {weights} is only for decoder vision-language models; model {name_or_path} is a "
            f"{read_model_type(folder)}"
        )
    more = () if weights == "fp32" else (weights, device)
    backbone: Backbone = _imported(family[0])(folder, name_or_path, *more)
    _tried(lambda: backbone.encoder, folder)
    return backbone


def load_encoder(name_or_path: str) -> Encoder:
    """Load the encoder of a model, without the model's weights.

    Raises:
        ModelError: as :func:`load_backbone`.
    """
    folder = model_folder(name_or_path)
    family = _family(folder)
    return _tried(lambda: _imported(family[1])(folder), folder)


def _tried(make: Callable[[], Encoder], folder: Path) -> Encoder:
    """Return an encoder that can encode a blank picture: a readable folder can hold sizes that no picture can have.

    Raises:
        ModelError: the encoder cannot be made, or fails.
    """
    import numpy as np  # merely naming a model must not cost their import
    import torch

    try:
        encoder = make()
        image = encoder.image(np.zeros((48, 64, 3), np.uint8))
        encoder.views([image], [0], encoder.texts(["what ?"])).batch([0], torch.device("cpu"))
        float(encoder.widest)
        return encoder
    except ModelError:
        raise
    except Exception as error:  # any arithmetic on unusable sizes
        raise ModelError(
            f"model folder {folder}: cannot encode a picture; sizes in preprocessor_config.json, processor_config.json "
            f"or config.json are unusable: {first_line(error)}"
        ) from error


def encoder_fingerprint(name_or_path: str) -> str:
    """Return the fingerprint of a model's encoder, without importing torch or transformers.

    Raises:
        ModelError: the model or folder does not exist.
    """
    return fingerprint(model_folder(name_or_path))


def model_folder(name_or_path: str) -> Path:
    """Return the folder of a bundled model, the folder at a path, or the folder of a Hub model in the local cache.

    Raises:
        ModelError: the model or folder does not exist, or the Hub cannot be reached.
    """
    if name_or_path in BUNDLED:
        return Path(str(resources.files("feddat.models"))) / "assets" / name_or_path
    if model_address(name_or_path) is not None:
        return named_folder(name_or_path)
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"model {name_or_path!r}: neither a bundled model ({', '.join(sorted(BUNDLED))}) nor an existing folder, "
            "nor owner/name on the Hub"
        )
    return folder


def check_family(folder: Path) -> None:
    """Check that the model in a folder is of a supported family. The folder needs only ``config.json``.

    Raises:
        ModelError: the family is not supported.
    """
    _family(folder)


def _imported(place: str) -> type[Any]:
    module, _, name = place.partition(":")
    found: type[Any] = getattr(import_module(f"feddat.models.{module}"), name)
    return found


def _family(folder: Path) -> Classes:
    model_type = read_model_type(folder)
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return _DECODER
    raise ModelError(
        f"model folder {folder}: model_type {model_type!r} is not supported; expected {', '.join(sorted(FAMILIES))}, "
        "or another that transformers' AutoModelForImageTextToText loads"
    )
