"""Load the published ALBEF checkpoints (github.com/salesforce/ALBEF) into our model.

A ``.pth`` file is a pickle of ``{"model": {name: tensor}, ...}``, or only of names and tensors. There are two kinds:

- pretrained (``ALBEF.pth``): the text encoder has the prefix ``text_encoder.bert.``, and its masked-word head
  ``text_encoder.cls.``. There is no answer decoder. As published, the decoder starts with copies of the fusion layers,
  the word embeddings and the masked-word head (arXiv 2107.07651, section 4).
- fine-tuned for VQA: the text encoder has the prefix ``text_encoder.`` without ``bert.``. There are also
  ``text_decoder.bert.`` and ``text_decoder.cls.``.

Momentum copies (``*_m.``), queues and the heads of other objectives are not used; the report lists them.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.folder import first_line
from feddat.models.weights import some

_POSITIONS = "visual_encoder.pos_embed"
_VISION = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_VISION_LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_HEAD = {
    "predictions.transform.dense": "transform.dense",
    "predictions.transform.LayerNorm": "transform.LayerNorm",
    "predictions.decoder": "decoder",
    "predictions": "decoder",  # only its bias, which old versions of transformers store twice
}


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Report on the loading of a checkpoint's tensors.

    Attributes:
        decoder: origin of the decoder: ``"checkpoint"``, or ``"fusion layers"`` if the checkpoint has no decoder.
        image_size: side of images, in pixels, for which the checkpoint's position embeddings were made.
        unused: names of tensors in the checkpoint that the model does not have.
    """

    decoder: str
    image_size: int
    unused: tuple[str, ...]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file by name, without executing anything in it.

    Raises:
        ModelError: the file does not exist, holds more than tensors and plain values, or is not an ALBEF checkpoint.
    """
    if not path.is_file():
        raise ModelError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"checkpoint {path}: is damaged or holds more than tensors: {first_line(error)}") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not isinstance(state.get(_POSITIONS), Tensor):
        raise ModelError(f"checkpoint {path}: no {_POSITIONS}; expected an ALBEF checkpoint")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def load_published(model: AlbefForQuestionAnswering, state: Mapping[str, Tensor], source: str) -> LoadReport:
    """Fill a model with the tensors of a published checkpoint.

    The image encoder's position embeddings are interpolated to the model's resolution.

    Args:
        model: model that is changed in place.
        state: tensors by name, from :func:`read_checkpoint`.
        source: name of the checkpoint for messages.

    Raises:
        ModelError: a tensor that the model needs is missing or has another shape.
    """
    config = cast(AlbefConfig, model.config)
    own = model.state_dict()
    has_decoder = any(name.startswith("text_decoder.") for name in state)
    tensors: dict[str, Tensor] = {}
    unused = []
    for name, value in state.items():
        new = _translate(name, value, None if has_decoder else config.fusion_layer)
        if own.keys().isdisjoint(new):
            unused.append(name)
        tensors |= new
    if missing := sorted(own.keys() - tensors.keys()):
        raise ModelError(f"checkpoint {source}: has no data for {some(missing)}")
    positions, patch = "albef.vision.embeddings.position_embeddings", config.vision_config.patch_size
    image_size = _grid_side(tensors[positions]) * patch
    tensors[positions] = interpolate_positions(tensors[positions], config.vision_config.image_size // patch)
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise ModelError(
                f"checkpoint {source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"but config.json requires {tuple(value.shape)}"
            )
    model.load_state_dict({name: tensors[name] for name in own})
    return LoadReport("checkpoint" if has_decoder else "fusion layers", image_size, tuple(sorted(unused)))


def interpolate_positions(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings (1, 1 + side², d), interpolated from another square grid (bicubic, as published).

    The first one, of [CLS], stays unchanged.
    """
    old = _grid_side(positions)
    if old == side:
        return positions
    grid = positions[:, 1:].transpose(1, 2).reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _grid_side(positions: Tensor) -> int:
    return math.isqrt(positions.shape[1] - 1)


def _translate(name: str, value: Tensor, fusion_layer: int | None) -> dict[str, Tensor]:
    """Return the model's tensors, by name, that a published tensor provides; empty if none.

    With ``fusion_layer``, the text encoder's tensors also initialise the decoder.
    """
    part, _, rest = name.partition(".")
    if part == "visual_encoder":
        return {f"albef.vision.{new}": tensor for new, tensor in _vision(rest, value).items()}
    rest = rest.removeprefix("bert.")
    if part == "text_decoder" or (part == "text_encoder" and fusion_layer is not None and rest.startswith("cls.")):
        head, _, kind = rest.removeprefix("cls.").rpartition(".")
        return {f"head.{_HEAD[head]}.{kind}": value} if head in _HEAD else {f"albef.text_decoder.{rest}": value}
    if part != "text_encoder":
        return {}
    new = {f"albef.text_encoder.{rest}": value}
    if fusion_layer is not None:
        layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", rest)
        if layer is None:
            new[f"albef.text_decoder.{rest}"] = value
        elif int(layer[1]) >= fusion_layer:
            new[f"albef.text_decoder.encoder.layer.{int(layer[1]) - fusion_layer}.{layer[2]}"] = value
    return new


def _vision(name: str, value: Tensor) -> dict[str, Tensor]:
    """Translate a tensor of the image encoder. Published checkpoints store query, key and value in one matrix."""
    layer = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer is None:
        stem = name.removesuffix(".weight").removesuffix(".bias")
        return {_VISION[stem] + name[len(stem) :]: value} if stem in _VISION else {}
    index, module, kind = layer.groups()
    if module == "attn.qkv":
        return {
            f"layers.{index}.attention.{projection}_proj.{kind}": part
            for projection, part in zip("qkv", value.chunk(3), strict=True)
        }
    return {f"layers.{index}.{_VISION_LAYER[module]}.{kind}": value} if module in _VISION_LAYER else {}
