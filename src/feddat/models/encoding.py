"""Views prepared once and batched many times: each image as bytes at model resolution, each text as token ids.

Pixels stay uint8 (a quarter of the memory of floats) and are normalised per batch, on the device that uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from feddat.example import View
from feddat.models.base import EncodedViews, Encoder


class EncodedImageTexts:
    """Image-text views for models that take ``input_ids`` and ``pixel_values``.

    Args:
        images: distinct images, uint8 (3, H, W) each; they may lie in memory-mapped files.
        image_of_view: index into ``images`` per view.
        tokens: token ids per view.
        pad_token: id that fills short texts.
        patch_size: height and width of a patch, the resolution of ``pixel_mask``.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        image_of_view: Sequence[int],
        tokens: Sequence[Sequence[int]],
        pad_token: int,
        patch_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ):
        self._images = list(images)
        self._image_of_view = torch.tensor(image_of_view, dtype=torch.long)
        self._lengths = torch.tensor([len(ids) for ids in tokens], dtype=torch.long)
        self._tokens = torch.full((len(tokens), max(map(len, tokens), default=0)), pad_token)
        for row, ids in zip(self._tokens, tokens, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        self._patch_size = patch_size
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = 1 / (255 * torch.tensor(std).view(3, 1, 1))
        self._shift = -(torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._image_of_view)

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the model inputs of the views at ``indices``, in that order, on ``device``.

        ``input_ids`` and ``attention_mask`` (N, L) long, L the longest text of the batch; ``pixel_values``
        (N, 3, H, W) float32, H and W the largest of the batch; ``pixel_mask`` (N, H / patch, W / patch) long, true
        where an image is.
        """
        views = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        lengths = self._lengths[views]
        longest = int(lengths.max())
        pixels, mask = self._pixels(self._image_of_view[views])
        return {
            "input_ids": self._tokens[views, :longest].to(device),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long().to(device),
            "pixel_values": torch.addcmul(self._shift.to(device), pixels.to(device), self._scale.to(device)),
            "pixel_mask": mask.to(device),
        }

    def _pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return raw pixels (N, 3, H, W) uint8, padded to the largest image, and their mask in patches."""
        patch_height, patch_width = self._patch_size
        chosen = [self._images[i] for i in images.tolist()]
        if len({image.shape for image in chosen}) == 1:
            height, width = chosen[0].shape[1:]
            mask = torch.ones(len(chosen), height // patch_height, width // patch_width, dtype=torch.long)
            return torch.stack(chosen), mask
        height, width = (max(image.shape[axis] for image in chosen) for axis in (1, 2))
        pixels = torch.zeros(len(chosen), 3, height, width, dtype=torch.uint8)
        mask = torch.zeros(len(chosen), height // patch_height, width // patch_width, dtype=torch.long)
        for i, image in enumerate(chosen):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
            mask[i, : image.shape[1] // patch_height, : image.shape[2] // patch_width] = 1
        return pixels, mask


def encode_views(encoder: Encoder, views: Sequence[View]) -> EncodedViews:
    """Encode views in memory; an image that several views share is encoded once.

    Raises:
        DataError: an image cannot be read; names the file.
    """
    position: dict[Path | bytes | int, int] = {}
    images: list[Tensor] = []
    image_of_view = []
    for view in views:
        # `views` keeps arrays alive, so that an id stays one object's.
        key = view.image if isinstance(view.image, Path | bytes) else id(view.image)
        if key not in position:
            position[key] = len(images)
            images.append(encoder.image(view.image))
        image_of_view.append(position[key])
    return encoder.views(images, image_of_view, encoder.texts([view.text for view in views]))
