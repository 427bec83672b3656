"""What happens to images and texts before ViLT sees them, from a model folder without its weights.

Sizes and constants are the folder's own processor's.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import ViltConfig
from transformers.models.vilt.image_processing_pil_vilt import (
    MAX_LONGER_EDGE,
    MAX_SHORTER_EDGE,
    ViltImageProcessorPil,
)

from feddat.example import DataError, Image
from feddat.models.folder_encoder import FolderEncoder, read_pixels
from feddat.models.processors import resize


class ViltEncoder(FolderEncoder):
    """The image processor and tokenizer of a ViLT folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: tokenizer or image processor is missing or unusable.
    """

    masks_on_host = True

    def __init__(self, folder: Path) -> None:
        config = ViltConfig.from_pretrained(folder, local_files_only=True)
        patch = config.patch_size
        super().__init__(
            folder,
            ViltImageProcessorPil,
            "ViLT",
            config.vocab_size,
            config.max_position_embeddings,
            (patch, patch) if isinstance(patch, int) else (patch[0], patch[1]),
        )

    def image(self, image: Image) -> Tensor:
        """Return an image at model resolution, uint8 (3, H, W).

        Raises:
            DataError: it cannot be read, or is too narrow; names the file.
        """
        pixels = read_pixels(image)
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
