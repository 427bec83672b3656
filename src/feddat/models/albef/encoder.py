"""Encode images and texts for ALBEF as its published test code does, from a model folder without its weights.

Images become squares at the model's resolution. Training uses the same transform, without the published augmentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.models.albef.model import AlbefConfig
from feddat.models.base import Unread
from feddat.models.folder_encoder import FolderEncoder, load_config

#: Maximum number of words of a question, as in the published test code (its training code: 30 words and 25 tokens).
MAX_WORDS = 50
_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~]")


def normalise_question(question: str) -> str:
    """Return a question as the model expects it: lower case, no punctuation, spaces instead of hyphens and slashes."""
    return " ".join(_words(question)[:MAX_WORDS])


def _words(question: str) -> list[str]:
    return _PUNCTUATION.sub("", question.lower()).replace("-", " ").replace("/", " ").rstrip(" ").split(" ")


class AlbefEncoder(FolderEncoder):
    """The image processor and tokenizer of an ALBEF folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)
        text, vision = config.text_config, config.vision_config
        patch_size = (vision.patch_size, vision.patch_size)
        super().__init__(
            folder, ViTImageProcessorPil, "ALBEF", text.vocab_size, text.max_position_embeddings, patch_size
        )
        self._image_size: int = vision.image_size

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return self._image_size, self._image_size

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each question, with [CLS] at the start and, as published, no [SEP] at the end."""
        if not texts:
            return []
        start: int = self.tokenizer.cls_token_id
        ids = self.tokenizer([self._plain(text) for text in texts], add_special_tokens=False)["input_ids"]
        return [[start, *row][: self._longest_text] for row in ids]

    def unread(self, texts: Sequence[str]) -> list[Unread | None]:
        """See :meth:`feddat.models.base.Encoder.unread`; questions are also cut after :data:`MAX_WORDS` words."""
        found = super().unread(texts)
        return [
            seen or ("cut" if len(_words(text)) > MAX_WORDS else None) for seen, text in zip(found, texts, strict=True)
        ]

    def _plain(self, text: str) -> str:
        return normalise_question(text)

    def _special_tokens(self) -> int:
        return 1

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer: [CLS], its word pieces, [SEP]."""
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids = self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        return [[start, *row[: self._longest_text - 2], end] for row in ids]


def read_config(folder: Path) -> AlbefConfig:
    """Return the configuration of an ALBEF folder.

    Raises:
        ModelError: the configuration is missing or unreadable, or its parts do not fit together.
    """
    config: AlbefConfig = load_config(AlbefConfig, folder, "ALBEF")
    return config
