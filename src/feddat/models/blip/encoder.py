"""Encode images, questions and answers for BLIP, from a model folder without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import BlipConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from feddat.models.base import ModelError
from feddat.models.folder_encoder import FolderEncoder, load_config


class BlipEncoder(FolderEncoder):
    """The image processor and tokenizer of a BLIP folder (:class:`feddat.models.base.Encoder`).

    Images become squares at the model's resolution. The tokenizer puts its own special tokens around a question. An
    answer is enclosed by the decoder's start token and the token that ends a text.

    Raises:
        ModelError: configuration, tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        config: Any = load_config(BlipConfig, folder, "BLIP")
        text, vision = config.text_config, config.vision_config
        patch_size = (vision.patch_size, vision.patch_size)
        super().__init__(
            folder, BlipImageProcessorPil, "BLIP", text.vocab_size, text.max_position_embeddings, patch_size
        )
        self._start, self._end = text.bos_token_id, text.sep_token_id
        for key, token in (("bos_token_id", self._start), ("sep_token_id", self._end)):
            if token is None or not 0 <= token < text.vocab_size:
                raise ModelError(
                    f"{folder / 'config.json'}: text_config.{key} is {token}; expected 0 to {text.vocab_size - 1}"
                )
        self._image_size: int = vision.image_size

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return self._image_size, self._image_size

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer, from the start token to the end token."""
        pieces: list[list[int]] = self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        return [[self._start, *row[: self._longest_text - 2], self._end] for row in pieces]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of the token ids between the start token and the end token."""
        # Published folders have more word embeddings than their tokenizer has tokens; the additional ones have no text.
        known = [token for token in tokens if token < len(self.tokenizer)]
        return str(self.tokenizer.decode(known, skip_special_tokens=True))
