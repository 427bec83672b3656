"""Encode images and texts for BERT and ViLT, from a model folder without its weights."""

from __future__ import annotations

from pathlib import Path

from transformers import BertConfig

from feddat.models.folder import fingerprint
from feddat.models.folder_encoder import load_config
from feddat.models.tokens import load_tokenizer
from feddat.models.vilt.encoder import ViltEncoder
from feddat.models.vilt_bert.parts import part_folders


class ViltBertEncoder(ViltEncoder):
    """ViLT's image processor and BERT's tokenizer (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: configuration, tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        vilt, bert = part_folders(folder)
        super().__init__(vilt)
        self.fingerprint = fingerprint(folder)
        config = load_config(BertConfig, bert, "BERT")
        self.tokenizer = load_tokenizer(bert, config.vocab_size)
        self._longest_text = min(self._longest_text, config.max_position_embeddings)
