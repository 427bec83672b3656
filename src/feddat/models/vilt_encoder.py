"""What happens to images and texts before ViLT sees them, from a model folder without its weights.

Sizes and constants are the folder's own processor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import ViltConfig
from transformers.models.vilt.image_processing_pil_vilt import (
    MAX_LONGER_EDGE,
    MAX_SHORTER_EDGE,
    ViltImageProcessorPil,
)

from feddat.example import DataError, Image
from feddat.models.encoding import EncodedImageTexts
from feddat.models.folder import fingerprint
from feddat.models.images import read_rgb
from feddat.models.processors import load_processor, normalisation, resize
from feddat.models.tokens import load_tokenizer


class ViltEncoder:
    """The image processor and tokenizer of a ViLT folder behind :class:`feddat.models.base.Encoder`.

    Raises:
        ModelError: tokenizer or image processor is missing or unusable.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint = fingerprint(folder)
        config = ViltConfig.from_pretrained(folder, local_files_only=True)
        self.tokenizer = load_tokenizer(folder, config.vocab_size)
        self._longest_text: int = config.max_position_embeddings
        patch = config.patch_size
        self._patch_size: tuple[int, int] = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
        self._processor, self._mode = load_processor(ViltImageProcessorPil, folder, "ViLT")

    def image(self, image: Image) -> Tensor:
        """Return an image at model resolution, uint8 (3, H, W).

        Raises:
            DataError: it cannot be read, or is too narrow; names the file.
        """
        pixels = torch.from_numpy(np.require(read_rgb(image), requirements="W")).permute(2, 0, 1)
        if not self._processor.do_resize:
            return pixels.contiguous()
        height, width = pixels.shape[1:]
        size = self._size(height, width)
        if min(size) == 0:
            name = image if isinstance(image, Path) else "in memory"
            raise DataError(
                f"image {name}: {width} x {height} pixels are too narrow: "
                f"resized, the shorter side has less than one patch of {self._patch_size[0]} pixels"
            )
        return resize(pixels, size, self._mode)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return what an image is resized to: the processor's shorter side, its limit to the longer, whole patches."""
        shorter = self._processor.size["shortest_edge"]
        limit = int(MAX_LONGER_EDGE / MAX_SHORTER_EDGE * shorter)
        scale = shorter / min(height, width)
        scaled: tuple[float, float] = (shorter, scale * width) if height < width else (scale * height, shorter)
        if max(scaled) > limit:
            scale = limit / max(scaled)
            scaled = (scale * scaled[0], scale * scaled[1])
        divisor = self._processor.size_divisor
        new_height, new_width = (int(side + 0.5) // divisor * divisor for side in scaled)
        return new_height, new_width

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids; what exceeds the model's position embeddings is cut."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self._longest_text)["input_ids"]
        return ids

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
            patch_size=self._patch_size,
            mean=mean,
            std=std,
        )
