"""Base class of encoders that use the image processor and tokenizer of a model folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feddat.models.base import ModelError, Unread
from feddat.models.encoding import EncodedImageTexts
from feddat.models.folder import fingerprint, first_line, require_file
from feddat.models.narrow import WIDEST
from feddat.models.processors import load_processor, normalisation, resize
from feddat.models.tokens import load_tokenizer
from feddat.pictures import Pixels


def load_config(kind: Any, folder: Path, family: str) -> Any:
    """Return a folder's configuration, read by a configuration class of transformers.

    Raises:
        ModelError: ``config.json`` is missing or is no such configuration; the message names it.
    """
    path = require_file(folder, ("config.json",), "configuration")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise ModelError(f"{path}: cannot be read as a configuration of {family}: {first_line(error)}") from error


class FolderEncoder(ABC):
    """The image processor and tokenizer of a model folder behind :class:`feddat.models.base.Encoder`.

    Args:
        folder: the model folder.
        processor: class of the image processor.
        family: name of the model for errors.
        vocab_size: number of the model's word embeddings.
        longest_text: maximum number of tokens of a text that the model has positions for.
        patch_size: height and width of a patch, in pixels.
        tokenizer_from_json: read only ``tokenizer.json``, whatever tokenizer class the folder names.

    Raises:
        ModelError: tokenizer or image processor is missing or unusable.
    """

    #: Whether the model's control flow depends on its masks (:class:`EncodedImageTexts`).
    masks_on_host = False
    #: See :class:`feddat.models.base.Encoder`.
    widest = WIDEST

    def __init__(
        self,
        folder: Path,
        processor: type[Any],
        family: str,
        vocab_size: int,
        longest_text: int,
        patch_size: tuple[int, int],
        tokenizer_from_json: bool = False,
    ):
        self.fingerprint = fingerprint(folder)
        self.tokenizer = load_tokenizer(folder, vocab_size, from_json=tokenizer_from_json)
        self._longest_text = longest_text
        self._patch_size = patch_size
        self._processor, self._mode = load_processor(processor, folder, family)

    @abstractmethod
    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which an image of this size is resized."""

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, H, W)."""
        picture = as_tensor(pixels)
        return resize(picture, self._size(*picture.shape[1:]), self._mode)

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, cut to the number of the model's position embeddings."""
        if not texts:
            return []
        plain = [self._plain(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(plain, truncation=True, max_length=self._longest_text)["input_ids"]
        return ids

    def unread(self, texts: Sequence[str]) -> list[Unread | None]:
        """See :meth:`feddat.models.base.Encoder.unread`."""
        found: list[Unread | None] = [None] * len(texts)
        most = self._longest_text - self._special_tokens()
        # A token has at least one byte, and vocabularies know ASCII, so most texts need no tokenising here.
        suspects = [
            n
            for n, text in enumerate(texts)
            if len(text.encode()) > most or not text.isascii() or not any(map(str.isalnum, text))
        ]
        if suspects:
            plain = [self._plain(texts[n]) for n in suspects]
            ids = self.tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
            for n, text, pieces in zip(suspects, plain, ids, strict=True):
                if not text.strip() or not self._reads_any(pieces):
                    found[n] = "empty"
                elif len(pieces) > most:
                    found[n] = "cut"
        return found

    def _reads_any(self, pieces: Sequence[int]) -> bool:
        """Return whether a text's tokens say anything: a language without known words leaves only its punctuation."""
        unknown = self.tokenizer.unk_token_id
        if unknown not in pieces:
            return bool(pieces)
        known = self.tokenizer.convert_ids_to_tokens([piece for piece in pieces if piece != unknown])
        return any(character.isalnum() for token in known for character in token)

    def _plain(self, text: str) -> str:
        """Return a text in the form that the tokenizer receives."""
        return text

    def _special_tokens(self) -> int:
        """Return the number of special tokens that are added to a text."""
        return int(self.tokenizer.num_special_tokens_to_add())

    def views(
        self, images: Sequence[Tensor], image_of_view: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> EncodedImageTexts:
        """Return views of encoded images and texts (:class:`EncodedImageTexts`)."""
        mean, std = normalisation(self._processor)
        return EncodedImageTexts(
            images,
            image_of_view,
            tokens,
            pad_token=self.tokenizer.pad_token_id or 0,
            patch_size=self._patch_size,
            mean=mean,
            std=std,
            masks_on_host=self.masks_on_host,
        )


def as_tensor(pixels: Pixels) -> Tensor:
    """Return a picture (H, W, 3) as a tensor, uint8 (3, H, W)."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)
