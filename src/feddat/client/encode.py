"""Views encoded through a cache on disk: what is there is mapped into memory, what is not is made and added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from feddat.data.cache import EncodedImage, EncodingCache, image_key, shards, text_key
from feddat.example import ClientData, DataError, Image, View
from feddat.files import locked
from feddat.models.base import EncodedViews, Encoder
from feddat.models.encoding import encode_images
from feddat.pictures import PictureReader


def encode_cached(
    encoder: Encoder, views: Sequence[View], cache: EncodingCache, reader: PictureReader | None = None
) -> EncodedViews:
    """Encode views, each image and each text at most once for all runs that share the cache.

    Args:
        encoder: of the model.
        views: of one client.
        cache: of what this encoder makes of images that are read so.
        reader: of its images; default: one with default settings.

    Raises:
        DataError: an image cannot be read or used, or the disk refuses.
    """
    distinct = {_identity(view.image): view.image for view in views}
    images = _images(encoder, list(distinct.values()), cache, reader or PictureReader())
    position = {identity: index for index, identity in enumerate(distinct)}
    return encoder.views(
        images,
        [position[_identity(view.image)] for view in views],
        _texts(encoder, [view.text for view in views], cache),
    )


def check_encoder(data: ClientData, fingerprint: str, model: str) -> None:
    """Raise if a client's images were prepared for another encoder, or read with other settings.

    Args:
        data: the client's.
        fingerprint: of what the run's encoder makes of images that are read as the run says.
        model: the run's, for errors.

    Raises:
        DataError: they were.
    """
    image = data.train[0].images[0] if data.train else None
    if isinstance(image, EncodedImage) and image.encoder != fingerprint:
        raise DataError(
            f"client {data.name}: prepared for another image processor or tokenizer than that of model {model}, or "
            "with other settings of `pictures`; give the same, or prepare it again with `feddat data prepare`"
        )


def _identity(image: Image) -> object:
    # The views keep arrays alive, so that an id stays one object's.
    return id(image) if isinstance(image, np.ndarray) else image


def _images(encoder: Encoder, images: Sequence[Image], cache: EncodingCache, reader: PictureReader) -> list[Tensor]:
    keys = {n: image_key(image) for n, image in enumerate(images) if not isinstance(image, EncodedImage)}
    files = {key: images[n] for n, key in keys.items()}
    if any(key not in cache.images for key in files):
        # Runs side by side: the first one encodes, the others wait and find everything there.
        with locked(cache.images.folder, wait=True):
            cache.images.refresh()
            cache.images.tidy()
            for group in shards(key for key in files if key not in cache.images):
                encoded = encode_images(encoder, [files[key] for key in group], reader)
                cache.images.add({key: image.numpy() for key, image in zip(group, encoded, strict=True)})
    return [
        torch.from_numpy(image.encoded if isinstance(image, EncodedImage) else cache.images[keys[n]])
        for n, image in enumerate(images)
    ]


def _texts(encoder: Encoder, texts: Sequence[str], cache: EncodingCache) -> list[list[int]]:
    keys = {text: text_key(text) for text in texts}
    missing = [text for text, key in keys.items() if key not in cache.texts]
    if missing:
        ids = encoder.texts(missing)
        cache.texts.add({keys[text]: np.array(row, np.int32) for text, row in zip(missing, ids, strict=True)})
    return [cache.texts[keys[text]].tolist() for text in texts]
