"""ViLT with a BERT in front: BERT's last hidden states take the place of ViLT's word embeddings; both are frozen.

Chochlakis, Srinivasan, Thomason, Narayanan: "VAuLT: Augmenting the Vision-and-Language Transformer for Sentiment
Classification on Social Media", arXiv 2208.09021. As in FedDAT's published code ("viltbert"), ViLT adds its own
positions and token types to them; VAuLT's own code can leave the positions out.

Adapters sit in ViLT's layers; ``adapter.sites`` ``"(.*\\.)?layer\\.\\d+\\.output"`` has bottlenecks in BERT's too.
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
from feddat.models.folder import copy_folder
from feddat.models.stages import drops_out, is_changed
from feddat.models.vilt.backbone import ViltBackbone
from feddat.models.vilt_bert.encoder import ViltBertEncoder
from feddat.models.vilt_bert.parts import FAMILY, part_folders, write_vilt_bert
from feddat.models.weights import load_weights


class ViltBertConfig(ViltConfig):  # type: ignore[no-untyped-call]
    """ViLT's configuration under the name that adapters know the whole model by."""

    model_type = FAMILY


class ViltBertModel(nn.Module):
    """The two models in a row.

    Args:
        bert: without pooler.
        vilt: of the same width.
    """

    base_model_prefix = ""  # PEFT asks every model that has a transformers configuration

    def __init__(self, bert: BertModel, vilt: Any) -> None:
        super().__init__()
        self.config = ViltBertConfig(**vilt.config.to_dict() | {"model_type": FAMILY})
        self.bert = bert
        self.vilt = vilt

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **image: Tensor) -> Any:
        """Return ViLT's output, given word pieces (N, L), their mask (N, L), and ViLT's image inputs."""
        words = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.vilt(inputs_embeds=words, attention_mask=attention_mask, **image)


class ViltBertBackbone:
    """A frozen ViLT behind a frozen BERT (:class:`feddat.models.base.Backbone`).

    Args:
        folder: model folder.
        name: how reports call the model; default: the folder's path.

    Raises:
        ModelError: a part is missing or incomplete, or their widths differ.
    """

    family = FAMILY

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        vilt, self._bert_folder = part_folders(self.folder)
        self._vilt = ViltBackbone(vilt)
        bert = load_weights(BertModel, self._bert_folder, "BERT", add_pooling_layer=False)
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
        """Decode, resize and tokenise every view once, see :meth:`ViltBackbone.encode`."""
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ViLT's pooled first token, shape (views, feature_dim), float."""
        return self._vilt.features(self._read(inputs))

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Divide the forward pass in front of the first of the modules that routes change."""
        self._bert_is_prefix = not is_changed(self._bert, changed)
        self._vilt.stage(changed)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what ViLT goes on from, see :meth:`ViltBackbone.prefix`; at least BERT's part of it."""
        if not self._bert_is_prefix or drops_out(self.model):
            return inputs
        return self._vilt.prefix(self._read(inputs))

    def _read(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs in which BERT's states have taken the place of the words."""
        if "input_ids" not in inputs:
            return inputs
        rest = {key: value for key, value in inputs.items() if key != "input_ids"}
        ids = inputs["input_ids"]
        words = self._bert(input_ids=ids, attention_mask=inputs["attention_mask"].to(ids.device))
        return rest | {"inputs_embeds": words.last_hidden_state}

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a classifier made of ViLT's masked-word head, see :meth:`ViltBackbone.word_head`."""
        return self._vilt.word_head(answers)

    def save(self, folder: Path) -> None:
        """Write a model folder that holds both parts."""
        self._vilt.save(folder / "vilt")
        copy_folder(self._bert_folder, folder / "bert")
        write_vilt_bert(folder, Path("vilt"), Path("bert"))
