"""ViLT with a BERT in front of it: BERT's last hidden states replace ViLT's word embeddings. Both models are frozen.

Chochlakis, Srinivasan, Thomason, Narayanan: "VAuLT: Augmenting the Vision-and-Language Transformer for Sentiment
Classification on Social Media", arXiv 2208.09021. As in FedDAT's published code ("viltbert"), ViLT adds its own
position and token-type embeddings to these states. VAuLT's own code can omit the positions.

By default, only ViLT's layers have adapters. With ``adapter.sites`` ``"(.*\\.)?layer\\.\\d+\\.output"``, BERT's layers
have bottlenecks as well.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import BertModel, ViltConfig

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.encoding import encode_views
from feddat.models.stages import drops_out, is_changed
from feddat.models.vilt.backbone import ViltBackbone
from feddat.models.vilt_bert.encoder import ViltBertEncoder
from feddat.models.vilt_bert.parts import FAMILY, part_folders
from feddat.models.weights import load_weights


class ViltBertConfig(ViltConfig):  # type: ignore[no-untyped-call]
    """ViLT's configuration under the model type that adapters use for the whole model."""

    model_type = FAMILY


class ViltBertModel(nn.Module):
    """BERT and ViLT one after the other.

    Args:
        bert: BERT without pooler.
        vilt: ViLT of the same width.
    """

    base_model_prefix = ""  # PEFT reads this from every model with a transformers configuration

    def __init__(self, bert: BertModel, vilt: Any) -> None:
        super().__init__()
        self.config = ViltBertConfig(**vilt.config.to_dict() | {"model_type": FAMILY})
        self.bert = bert
        self.vilt = vilt

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **image: Tensor) -> Any:
        """Return ViLT's output for word pieces (N, L), their mask (N, L), and ViLT's image inputs."""
        words = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.vilt(inputs_embeds=words, attention_mask=attention_mask, **image)


class ViltBertBackbone:
    """A frozen ViLT behind a frozen BERT (:class:`feddat.models.base.Backbone`).

    Args:
        folder: model folder.
        name: name of the model in reports; default: the folder's path.

    Raises:
        ModelError: a part is missing or incomplete, or their widths differ.
    """

    family = FAMILY

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        vilt, bert_folder = part_folders(self.folder)
        self._vilt = ViltBackbone(vilt)
        bert = load_weights(BertModel, bert_folder, "BERT", add_pooling_layer=False)
        self.feature_dim: int = self._vilt.feature_dim
        if bert.config.hidden_size != self.feature_dim:
            raise ModelError(
                f"model folder {self.folder}: BERT has hidden size {bert.config.hidden_size}, "
                f"ViLT {self.feature_dim}; expected the same"
            )
        self.encoder = ViltBertEncoder(self.folder)
        whole = ViltBertModel(bert, self._vilt.model).requires_grad_(False).train(False)
        self.model: nn.Module = whole
        self._bert: Any = whole.bert
        self._bert_is_prefix = False

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once (:meth:`ViltBackbone.encode`)."""
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ViLT's pooled first token, shape (views, feature_dim), float32 or float64."""
        return self._vilt.features(self._read(inputs))

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Split the forward pass before the first module that routes change."""
        self._bert_is_prefix = not is_changed(self._bert, changed)
        self._vilt.stage(changed)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs from which ViLT continues (:meth:`ViltBackbone.prefix`); they include BERT's states."""
        if not self._bert_is_prefix or drops_out(self.model):
            return inputs
        return self._vilt.prefix(self._read(inputs))

    def _read(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs in which BERT's states replace the words."""
        if "input_ids" not in inputs:
            return inputs
        rest = {key: value for key, value in inputs.items() if key != "input_ids"}
        ids = inputs["input_ids"]
        words = self._bert(input_ids=ids, attention_mask=inputs["attention_mask"].to(ids.device))
        return rest | {"inputs_embeds": words.last_hidden_state}

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a classifier made from ViLT's masked-word head (:meth:`ViltBackbone.word_head`)."""
        return self._vilt.word_head(answers)
