"""Encode images and texts for ViLT, from a model folder without its weights.

Sizes and constants come from the folder's image processor.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from torch import Tensor
from transformers import ViltConfig
from transformers.models.vilt.image_processing_pil_vilt import (
    MAX_LONGER_EDGE,
    MAX_SHORTER_EDGE,
    ViltImageProcessorPil,
)

from feddat.models.folder_encoder import FolderEncoder, as_tensor, load_config
from feddat.models.narrow import WIDEST
from feddat.models.processors import resize
from feddat.pictures import Pixels


class ViltEncoder(FolderEncoder):
    """The image processor and tokenizer of a ViLT folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: configuration, tokenizer or image processor is missing or unusable.
    """

    masks_on_host = True

    def __init__(self, folder: Path) -> None:
        config = load_config(ViltConfig, folder, "ViLT")
        patch = config.patch_size
        super().__init__(
            folder,
            ViltImageProcessorPil,
            "ViLT",
            config.vocab_size,
            config.max_position_embeddings,
            (patch, patch) if isinstance(patch, int) else (patch[0], patch[1]),
        )

    @cached_property
    def widest(self) -> float:  # type: ignore[override]
        """Maximum ratio of sides at which the shorter side, after resizing, still has a whole patch."""
        if not self._processor.do_resize:
            return WIDEST
        # Sides are rounded to whole pixels first, and then to whole patches.
        smallest: float = self._processor.size_divisor - 0.5
        return min(WIDEST, self._limit / smallest)

    @property
    def _limit(self) -> int:
        """Maximum length in pixels of the longer side of a resized picture."""
        return int(MAX_LONGER_EDGE / MAX_SHORTER_EDGE * self._processor.size["shortest_edge"])

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, H, W)."""
        picture = as_tensor(pixels)
        if not self._processor.do_resize:
            return picture.contiguous()
        return resize(picture, self._size(*picture.shape[1:]), self._mode)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the resized height and width in whole patches, by the processor's shorter side and longer limit."""
        shorter = self._processor.size["shortest_edge"]
        limit = self._limit
        scale = shorter / min(height, width)
        scaled: tuple[float, float] = (shorter, scale * width) if height < width else (scale * height, shorter)
        if max(scaled) > limit:
            scale = limit / max(scaled)
            scaled = (scale * scaled[0], scale * scaled[1])
        divisor = self._processor.size_divisor
        new_height, new_width = (int(side + 0.5) // divisor * divisor for side in scaled)
        return new_height, new_width
