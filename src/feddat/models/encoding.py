"""Views that are prepared once and batched many times: images as uint8 at model resolution, texts as token ids.

Pixels stay uint8, which needs a quarter of the memory of floats. They are normalised per batch, on the device that
uses them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from feddat.example import Image, View, image_identity
from feddat.models.base import EncodedViews, Encoder
from feddat.models.narrow import fitting
from feddat.pictures import PictureReader, image_name


class EncodedImageTexts:
    """Image-text views for models that take ``input_ids`` and ``pixel_values``.

    Args:
        images: distinct images, uint8 (3, H, W) each; they can be memory-mapped.
        image_of_view: index into ``images`` per view.
        tokens: token ids per view.
        pad_token: id that fills short texts.
        patch_size: height and width of a patch, which is the resolution of ``pixel_mask``.
        mean: mean per channel of pixels in [0, 1].
        std: standard deviation per channel of pixels in [0, 1].
        masks_on_host: whether masks stay in CPU memory, for models whose control flow depends on them. Reading a mask
            on a GPU would wait for all of its pending work.
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
        masks_on_host: bool = False,
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
        self._masks_on_host = masks_on_host

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._image_of_view)

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the model inputs of the views at ``indices``, in that order, on ``device``.

        ``input_ids`` and ``attention_mask``: (N, L) int64, where L is the longest text of the batch. ``pixel_values``:
        (N, 3, H, W) float32, where H and W are the largest of the batch. ``pixel_mask``: (N, H / patch, W / patch)
        int64, 1 where there is an image. Copies to a GPU are asynchronous.
        """
        views = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        lengths = self._lengths[views]
        longest = int(lengths.max())
        pixels, image_mask = self._pixels(self._image_of_view[views], pinned=device.type == "cuda")
        text_mask = (torch.arange(longest) < lengths[:, None]).long()
        masks_on = torch.device("cpu") if self._masks_on_host else device

        def moved(tensor: Tensor, to: torch.device = device) -> Tensor:
            return tensor.to(to, non_blocking=True)

        return {
            "input_ids": moved(self._tokens[views, :longest]),
            "attention_mask": moved(text_mask, masks_on),
            "pixel_values": torch.addcmul(moved(self._shift), _beside(pixels, device), moved(self._scale)),
            "pixel_mask": moved(image_mask, masks_on),
        }

    def _pixels(self, images: Tensor, pinned: bool) -> tuple[Tensor, Tensor]:
        """Return raw pixels (N, 3, H, W) uint8, padded to the largest image, and their mask per patch."""
        patch_height, patch_width = self._patch_size
        chosen = [self._images[i] for i in images.tolist()]
        height, width = (max(image.shape[axis] for image in chosen) for axis in (1, 2))
        pixels = torch.empty(len(chosen), 3, height, width, dtype=torch.uint8, pin_memory=pinned)
        if len({image.shape for image in chosen}) == 1:
            mask = torch.ones(len(chosen), height // patch_height, width // patch_width, dtype=torch.long)
            return torch.stack(chosen, out=pixels), mask
        pixels.zero_()
        mask = torch.zeros(len(chosen), height // patch_height, width // patch_width, dtype=torch.long)
        for i, image in enumerate(chosen):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
            mask[i, : image.shape[1] // patch_height, : image.shape[2] // patch_width] = 1
        return pixels, mask


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _beside(pixels: Tensor, device: torch.device) -> Tensor:
    """Return pixels on a device; a GPU copies them while it does earlier work."""
    if device.type != "cuda":
        return pixels.to(device)
    stream, now = _copying(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        copied = pixels.to(device, non_blocking=True)
    now.wait_stream(stream)
    copied.record_stream(now)
    return copied


def encode_views(encoder: Encoder, views: Sequence[View], reader: PictureReader | None = None) -> EncodedViews:
    """Encode views in memory; an image that several views share is encoded once.

    Args:
        encoder: encoder of the model.
        views: views of one client.
        reader: reader of its images; default: a reader with default settings.

    Raises:
        DataError: an image cannot be read or used; the message names the file.
    """
    position: dict[Hashable, int] = {}
    distinct: list[Image] = []
    image_of_view = []
    for view in views:
        key = image_identity(view.image)  # `views` keeps the images
        if key not in position:
            position[key] = len(distinct)
            distinct.append(view.image)
        image_of_view.append(position[key])
    images = encode_images(encoder, distinct, reader or PictureReader())
    return encoder.views(images, image_of_view, encoder.texts([view.text for view in views]))


def encode_image(encoder: Encoder, image: Image, reader: PictureReader) -> Tensor:
    """Return one image at model resolution, uint8 (3, H, W).

    Raises:
        DataError: the image cannot be read, or is too narrow for the model; the message names the file.
    """
    return encoder.image(fitting(reader.read(image), image_name(image), encoder.widest, reader))


def encode_images(encoder: Encoder, images: Sequence[Image], reader: PictureReader) -> list[Tensor]:
    """Encode images; with many files, in as many threads as torch uses.

    Raises:
        DataError: an image cannot be read or used; the message names the file.
    """
    threads = torch.get_num_threads()
    if threads == 1 or sum(isinstance(image, Path | bytes) for image in images) < 2 * threads:
        return [encode_image(encoder, image, reader) for image in images]
    try:
        # One torch thread each: several threads per picture would have too little to do.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                return list(pool.map(lambda image: encode_image(encoder, image, reader), images))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)  # the setting of a thread also applies to all later threads
