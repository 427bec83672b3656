"""What happens to images and texts before CLIP or SigLIP sees them, from a model folder without its weights.

Sizes and constants are the folder's own processor's. All images get one size. SigLIP is trained on texts padded to full
length, whose padding counts (Zhai et al., arXiv 2303.15343); CLIP's padding is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from feddat.example import Image
from feddat.models.base import ModelError
from feddat.models.encoding import EncodedImageTexts
from feddat.models.folder import fingerprint
from feddat.models.images import read_rgb
from feddat.models.processors import load_processor, normalisation, resize
from feddat.models.tokens import load_tokenizer

_PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}


class TwoTowersEncoder:
    """The image processor and tokenizer of a CLIP or SigLIP folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: tokenizer or image processor is missing or unusable, or gives other sizes than the model takes.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint = fingerprint(folder)
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        self._fills_texts = config.model_type == "siglip"
        # transformers' class for SigLIP wants sentencepiece.
        self.tokenizer = load_tokenizer(folder, config.text_config.vocab_size, from_json=self._fills_texts)
        self._longest_text: int = config.text_config.max_position_embeddings
        if self._fills_texts and self.tokenizer.pad_token_id is None:
            raise ModelError(f"model folder {folder}: tokenizer without padding token; SigLIP reads padded texts")
        self._patch: int = config.vision_config.patch_size
        self._processor, self._mode = load_processor(_PROCESSORS[config.model_type], folder, config.model_type)
        self._size, self._crops = _sizes(self._processor, folder)
        expected: int = config.vision_config.image_size
        if self._size != (expected, expected):
            raise ModelError(
                f"model folder {folder}: image processor gives {self._size[0]} x {self._size[1]} pixels; "
                f"config.json says {expected} x {expected}"
            )

    def image(self, image: Image) -> Tensor:
        """Return an image at model resolution, uint8 (3, S, S).

        Raises:
            DataError: it cannot be read; names the file.
        """
        pixels = torch.from_numpy(np.require(read_rgb(image), requirements="W")).permute(2, 0, 1)
        if not self._crops:
            return resize(pixels, self._size, self._mode)
        height, width = pixels.shape[1:]
        shorter = self._processor.size["shortest_edge"]
        # The longer side is rounded down, as the stock processor does.
        scaled = [shorter if side == min(height, width) else shorter * side // min(height, width)
                  for side in (height, width)]  # fmt: skip
        pixels = resize(pixels, (scaled[0], scaled[1]), self._mode)
        top, left = ((side - kept) // 2 for side, kept in zip(scaled, self._size, strict=True))
        return pixels[:, top : top + self._size[0], left : left + self._size[1]].contiguous()

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids; what exceeds the model's position embeddings is cut."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self._longest_text,
            padding="max_length" if self._fills_texts else False,
        )
        ids: list[list[int]] = encoded["input_ids"]
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
            patch_size=(self._patch, self._patch),
            mean=mean,
            std=std,
        )


def _sizes(processor: Any, folder: Path) -> tuple[tuple[int, int], bool]:
    """Return the size of every image that leaves a processor, (height, width), and whether it is cut out of a larger.

    Raises:
        ModelError: the processor leaves images at sizes of their own.
    """
    size, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
    if processor.do_resize and crop is None and size.get("height"):
        return (size["height"], size["width"]), False
    if processor.do_resize and crop is not None and size.get("shortest_edge"):
        if max(crop["height"], crop["width"]) > size["shortest_edge"]:
            raise ModelError(f"model folder {folder}: image processor: crop_size exceeds the shortest edge")
        return (crop["height"], crop["width"]), True
    raise ModelError(
        f"model folder {folder}: image processor: expected size of height and width, or shortest_edge and crop_size"
    )
