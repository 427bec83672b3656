"""What ALBEF's published code does to images and texts (its test transform and text rules), from a model folder.

Images become squares at the model's resolution, in training too: the published augmentation is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.example import Image
from feddat.models.albef.model import AlbefConfig
from feddat.models.base import ModelError
from feddat.models.encoding import EncodedImageTexts
from feddat.models.folder import fingerprint, first_line, require_file
from feddat.models.images import read_rgb
from feddat.models.processors import load_processor, normalisation, resize
from feddat.models.tokens import load_tokenizer

#: Questions are cut after so many words, as in the published test code (its training code: 30, and 25 tokens).
MAX_WORDS = 50
_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~]")


def normalise_question(question: str) -> str:
    """Return a question as the model knows them: lower case, without punctuation, hyphens and slashes as spaces."""
    text = _PUNCTUATION.sub("", question.lower()).replace("-", " ").replace("/", " ").rstrip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


class AlbefEncoder:
    """The image processor and tokenizer of an ALBEF folder behind :class:`feddat.models.base.Encoder`.

    Raises:
        ModelError: tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint = fingerprint(folder)
        config = read_config(folder)
        self.tokenizer = load_tokenizer(folder, config.text_config.vocab_size)
        self._longest_text: int = config.text_config.max_position_embeddings
        self._image_size: int = config.vision_config.image_size
        self._patch_size: int = config.vision_config.patch_size
        self._processor, self._mode = load_processor(ViTImageProcessorPil, folder, "ALBEF")

    def image(self, image: Image) -> Tensor:
        """Return an image as a square at model resolution, uint8 (3, S, S).

        Raises:
            DataError: it cannot be read; names the file.
        """
        pixels = torch.from_numpy(np.require(read_rgb(image), requirements="W")).permute(2, 0, 1)
        return resize(pixels, (self._image_size, self._image_size), self._mode)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each question's token ids: [CLS] in front and, as published, no [SEP] behind."""
        if not texts:
            return []
        start: int = self.tokenizer.cls_token_id
        ids = self.tokenizer([normalise_question(text) for text in texts], add_special_tokens=False)["input_ids"]
        return [[start, *row][: self._longest_text] for row in ids]

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return each answer's token ids: [CLS], its pieces, [SEP]."""
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids = self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        return [[start, *row[: self._longest_text - 2], end] for row in ids]

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


def read_config(folder: Path) -> AlbefConfig:
    """Return the configuration of an ALBEF folder.

    Raises:
        ModelError: it is missing or its parts do not fit together.
    """
    path = require_file(folder, ("config.json",), "configuration")
    try:
        config: AlbefConfig = AlbefConfig.from_pretrained(folder, local_files_only=True)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:  # transformers raises many kinds for values of wrong types
        raise ModelError(f"{path}: cannot be read as ALBEF's configuration: {first_line(error)}") from error
    return config
