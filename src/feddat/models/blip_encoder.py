"""What happens to images, questions and answers before BLIP sees them, from a model folder without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BlipConfig
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from feddat.example import Image
from feddat.models.base import ModelError
from feddat.models.encoding import EncodedImageTexts
from feddat.models.folder import fingerprint, first_line
from feddat.models.images import read_rgb
from feddat.models.processors import load_processor, normalisation, resize
from feddat.models.tokens import load_tokenizer


class BlipEncoder:
    """The image processor and tokenizer of a BLIP folder behind :class:`feddat.models.base.Encoder`.

    Images become squares at the model's resolution. A question is read with the tokenizer's own marks around it; an
    answer stands between the decoder's start token and the token that ends a text.

    Raises:
        ModelError: configuration, tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint = fingerprint(folder)
        try:
            config: Any = BlipConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many kinds for damaged files
            raise ModelError(f"{folder / 'config.json'}: not a configuration of BLIP: {first_line(error)}") from error
        text, vision = config.text_config, config.vision_config
        self.tokenizer = load_tokenizer(folder, text.vocab_size)
        self._start, self._end = text.bos_token_id, text.sep_token_id
        for key, token in (("bos_token_id", self._start), ("sep_token_id", self._end)):
            if token is None or not 0 <= token < text.vocab_size:
                raise ModelError(
                    f"{folder / 'config.json'}: text_config.{key} is {token}; expected 0 to {text.vocab_size - 1}"
                )
        self._longest_text: int = text.max_position_embeddings
        self._image_size: int = vision.image_size
        self._patch_size: int = vision.patch_size
        self._processor, self._mode = load_processor(BlipImageProcessorPil, folder, "BLIP")

    def image(self, image: Image) -> Tensor:
        """Return an image as a square at model resolution, uint8 (3, S, S).

        Raises:
            DataError: it cannot be read; names the file.
        """
        pixels = torch.from_numpy(np.require(read_rgb(image), requirements="W")).permute(2, 0, 1)
        return resize(pixels, (self._image_size, self._image_size), self._mode)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids; what exceeds the model's position embeddings is cut."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self._longest_text)["input_ids"]
        return ids

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return each answer's token ids, from the start to the end token."""
        pieces: list[list[int]] = self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        return [[self._start, *row[: self._longest_text - 2], self._end] for row in pieces]

    def text(self, tokens: Sequence[int]) -> str:
        """Return what the token ids between the start and the end token spell."""
        # A published folder has word embeddings beyond its tokenizer's words: they spell nothing.
        known = [token for token in tokens if token < len(self.tokenizer)]
        return str(self.tokenizer.decode(known, skip_special_tokens=True))

    def views(
        self, images: Sequence[Tensor], image_of_view: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> EncodedImageTexts:
        """Return views of encoded images and texts, see :class:`EncodedImageTexts`."""
        mean, std = normalisation(self._processor)
        return EncodedImageTexts(
            images,
            image_of_view,
            tokens,
            pad_token=self.tokenizer.pad_token_id or 0,
            patch_size=(self._patch_size, self._patch_size),
            mean=mean,
            std=std,
        )
