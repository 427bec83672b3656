"""Initial weights for pretraining an ALBEF, taken from a ViLT.

The published ALBEF starts from DeiT and BERT (arXiv 2107.07651, section 3.1). The mini world has neither. But the
layers of a ViLT without a text form an image encoder, and its embeddings and masked-word head have BERT's structure.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import ViltForMaskedLM

from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.catalog import model_folder
from feddat.models.weights import load_weights

_LAYER = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}


def start_from_vilt(model: AlbefForQuestionAnswering, name_or_path: str) -> None:
    """Copy a ViLT's weights into the image encoder, the embeddings of both text parts and the vocabulary head.

    Afterwards the image encoder returns what the ViLT returns for an image without a text. The text parts are the text
    encoder and the decoder.

    Args:
        model: model that is changed in place.
        name_or_path: bundled name or folder of the ViLT.

    Raises:
        ModelError: the ViLT does not exist, or has another size.
    """
    vilt: ViltForMaskedLM = load_weights(ViltForMaskedLM, model_folder(name_or_path), "ViLT")
    embeddings = vilt.vilt.embeddings
    with torch.no_grad():
        # ViLT adds the same token-type vector to all image tokens; here it is part of the position embeddings.
        embeddings.position_embeddings.add_(embeddings.token_type_embeddings.weight[1])
    tensors: dict[str, Tensor] = {}
    for name, value in vilt.state_dict().items():
        tensors |= dict.fromkeys(_names(name), value)
    own = model.state_dict()
    for name, value in tensors.items():
        if name not in own or own[name].shape != value.shape:
            expected = tuple(own[name].shape) if name in own else "no such tensor"
            raise ModelError(f"start={name_or_path}: {name} is {tuple(value.shape)}, but the new model has {expected}")
    model.load_state_dict(tensors, strict=False)


def _names(name: str) -> list[str]:
    """Return the names of the ALBEF tensors that start as a ViLT's tensor; empty if none does."""
    if name.startswith("mlm_score."):
        # The state holds the decoder's bias under a second name.
        return [] if name == "mlm_score.bias" else [f"head.{name.removeprefix('mlm_score.')}"]
    rest = name.removeprefix("vilt.")
    if rest.startswith("embeddings.text_embeddings."):
        return [f"albef.{part}.{rest.replace('text_embeddings.', '')}" for part in ("text_encoder", "text_decoder")]
    if layer := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", rest):
        return [f"albef.vision.layers.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"]
    if rest.startswith(("pooler.", "embeddings.token_type_embeddings.")):
        return []
    return [f"albef.vision.{rest}"]
