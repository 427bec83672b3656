"""The published ALBEF checkpoints (github.com/salesforce/ALBEF), and what becomes of their tensors here.

A ``.pth`` file is a pickle of ``{"model": {name: tensor}, ...}``, or of the names and tensors alone, of two kinds:

- pretrained (``ALBEF.pth``): the text encoder lies below ``text_encoder.bert.``, its masked-word head below
  ``text_encoder.cls.``; there is no answer decoder. As published, the decoder starts as the fusion layers, the word
  embeddings and the masked-word head (arXiv 2107.07651, section 4).
- fine-tuned for VQA: ``text_encoder.`` without ``bert.``; beside it ``text_decoder.bert.`` and ``text_decoder.cls.``.

Momentum copies (``*_m.``), queues and the heads of other objectives have no use here; whoever reads a file is told.
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
    "predictions": "decoder",  # its bias, which old versions of transformers keep twice
}


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a checkpoint's tensors.

    Attributes:
        decoder: ``"checkpoint"``, or ``"fusion layers"`` where the checkpoint has no answer decoder.
        image_size: side in pixels that the checkpoint's position embeddings were made for.
        unused: names in the checkpoint that the model has no place for.
    """

    decoder: str
    image_size: int
    unused: tuple[str, ...]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file by name; nothing in it is executed.

    Raises:
        ModelError: there is no such file, it holds more than tensors and plain values, or it is no ALBEF checkpoint.
    """
    if not path.is_file():
        raise ModelError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"checkpoint {path}: cannot be read as tensors alone: {first_line(error)}") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not isinstance(state.get(_POSITIONS), Tensor):
        raise ModelError(f"checkpoint {path}: no {_POSITIONS}; expected a checkpoint of ALBEF")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def load_published(model: AlbefForQuestionAnswering, state: Mapping[str, Tensor], source: str) -> LoadReport:
    """Fill a model with the tensors of a published checkpoint.

    The image encoder's position embeddings are interpolated to the model's resolution.

    Args:
        model: it is changed in place.
        state: as :func:`read_checkpoint` gives it.
        source: the checkpoint's name in messages.

    Raises:
        ModelError: a tensor that the model needs is missing or of another shape.
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
        raise ModelError(f"checkpoint {source}: lacks what becomes {some(missing)}")
    positions, patch = "albef.vision.embeddings.position_embeddings", config.vision_config.patch_size
    image_size = _grid_side(tensors[positions]) * patch
    tensors[positions] = interpolate_positions(tensors[positions], config.vision_config.image_size // patch)
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise ModelError(
                f"checkpoint {source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"config.json says {tuple(value.shape)}"
            )
    model.load_state_dict({name: tensors[name] for name in own})
    return LoadReport("checkpoint" if has_decoder else "fusion layers", image_size, tuple(sorted(unused)))


def interpolate_positions(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings (1, 1 + side², d) made of those of another square grid, bicubic as published.

    The first, [CLS]'s, stays as it is.
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
    """Return what a published tensor becomes, under the model's names; empty: nothing.

    With ``fusion_layer``, the text encoder's tensors also start the decoder.
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
    """Translate a tensor of the image encoder; query, key and value lie in one matrix there."""
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
