"""ViLT as a frozen backbone, from any Hugging Face folder in the layout of ``dandelin/vilt-b32-mlm``.

The folder holds ``config.json``, weights, tokenizer files and ``preprocessor_config.json``. The weights are those of
``ViltModel`` or of ``ViltForMaskedLM``, whose masked-word head can initialise a client's answer head. Nothing is
downloaded.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViltForMaskedLM, ViltModel
from transformers.models.vilt.modeling_vilt import ViltMLMHead

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.encoding import encode_views
from feddat.models.folder import read_model_type
from feddat.models.vilt.encoder import ViltEncoder
from feddat.models.vilt.fast import make_fast
from feddat.models.vilt.stages import ViltStages
from feddat.models.weights import load_weights, read_tensors, unloadable, weight_files


class ViltBackbone:
    """A frozen ViLT behind :class:`feddat.models.base.Backbone`.

    Args:
        folder: Hugging Face model folder.
        name: name of the model in reports; default: the folder's path.

    Raises:
        ModelError: the folder is not a complete ViLT folder.
    """

    family = "vilt"

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        model_type = read_model_type(self.folder)
        if model_type != "vilt":
            raise ModelError(f"{self.folder / 'config.json'}: model_type is {model_type!r}; expected 'vilt'")
        vilt, self._word_scores = read_vilt(self.folder)
        self.encoder = ViltEncoder(self.folder)
        self.model: nn.Module = make_fast(vilt).requires_grad_(False).train(False)
        self._stages = ViltStages(vilt)
        self.feature_dim: int = vilt.config.hidden_size

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Texts longer than the model's position embeddings are cut.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled first token, shape (views, feature_dim), float32 or float64."""
        pooled = self._stages.pooled(inputs)
        return pooled if pooled.dtype == torch.float64 else pooled.float()

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Split the forward pass before the first module that routes change."""
        self._stages = ViltStages(self._stages.vilt, changed)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the states from which every route continues (:mod:`feddat.models.vilt.stages`)."""
        return self._stages.prefix(inputs)

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a new trainable classifier over ``answers``, shape (N, feature_dim) to (N, answers).

        It is a copy of the masked-word head with one output per answer. The weight and bias of an output are those of
        the answer's token, or their mean over several word pieces. ``None`` if the folder has no masked-word head.

        Raises:
            ValueError: an answer has no tokens.
        """
        if self._word_scores is None:
            return None
        decoder = self._word_scores.decoder
        classifier = nn.Linear(self.feature_dim, len(answers))
        with torch.no_grad():
            for i, answer in enumerate(answers):
                pieces = self.encoder.tokenizer(answer, add_special_tokens=False)["input_ids"]
                if not pieces:
                    raise ValueError(f"answer {answer!r}: has no tokens; expected at least one to initialise the head")
                classifier.weight[i] = decoder.weight[pieces].mean(dim=0)
                classifier.bias[i] = decoder.bias[pieces].mean()
        transform = copy.deepcopy(self._word_scores.transform)
        return nn.Sequential(transform, classifier).cpu().requires_grad_(True)


def read_vilt(folder: Path) -> tuple[ViltModel, ViltMLMHead | None]:
    """Return the transformer, and the masked-word head if the folder has its weights; both are float32.

    Raises:
        ModelError: the folder's weights are missing, damaged, or not those of a ViLT.
    """
    # Published checkpoints name the bias of the word scores `mlm_score.bias`, newer ones `mlm_score.decoder.bias`.
    old, new = "mlm_score.bias", "mlm_score.decoder.bias"
    names: set[str] = set()
    old_bias = None
    for shard in weight_files(folder):
        try:
            found, tensors = read_tensors(shard, (old,))
        except Exception as error:  # torch and safetensors raise many kinds of errors for damaged files
            raise unloadable(folder, "ViLT", error) from error
        names |= found
        old_bias = tensors.get(old, old_bias)
    if not any(name.startswith("mlm_score.") for name in names):
        return load_weights(ViltModel, folder, "ViLT"), None
    model = load_weights(ViltForMaskedLM, folder, "ViLT", forgiven=() if old_bias is None else (new,))
    if old_bias is not None and new not in names:
        model.mlm_score.decoder.bias.data.copy_(old_bias)
    return model.vilt, model.mlm_score.requires_grad_(False).eval()
