"""Encode views through a cache on disk.

Encodings in the cache are mapped into memory; missing ones are made and added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from feddat.data.cache import EncodedImage, EncodingCache, image_key, shards, text_key
from feddat.example import ClientData, DataError, Image, View, image_identity
from feddat.files import locked
from feddat.models.base import EncodedViews, Encoder
from feddat.models.encoding import encode_images
from feddat.pictures import PictureReader


def encode_cached(
    encoder: Encoder, views: Sequence[View], cache: EncodingCache, reader: PictureReader | None = None
) -> EncodedViews:
    """Encode views; all runs that share the cache encode each image and each text at most once.

    Args:
        encoder: the model's encoder.
        views: the views of one client.
        cache: the cache of this encoder and these picture settings.
        reader: reads the client's images; default: a reader with default settings.

    Raises:
        DataError: an image cannot be read or used, or the cache cannot be written.
    """
    distinct = {image_identity(view.image): view.image for view in views}  # the views keep the images
    images = _images(encoder, list(distinct.values()), cache, reader or PictureReader())
    position = {identity: index for index, identity in enumerate(distinct)}
    return encoder.views(
        images,
        [position[image_identity(view.image)] for view in views],
        _texts(encoder, [view.text for view in views], cache),
    )


def check_encoder(data: ClientData, fingerprint: str, model: str) -> None:
    """Check that a client's images were prepared for the run's encoder and read with the run's settings.

    Args:
        data: the client's data.
        fingerprint: the fingerprint of the run's encoder and picture settings.
        model: the name of the run's model, for errors.

    Raises:
        DataError: the images were prepared for another encoder or with other settings.
    """
    image = data.train[0].images[0] if data.train else None
    if isinstance(image, EncodedImage) and image.encoder != fingerprint:
        raise DataError(
            f"client {data.name}: prepared for another image processor or tokenizer than model {model} uses, or "
            "with other settings of `pictures`; use the same, or prepare it again with `feddat data prepare`"
        )


def _images(encoder: Encoder, images: Sequence[Image], cache: EncodingCache, reader: PictureReader) -> list[Tensor]:
    keys = {n: image_key(image) for n, image in enumerate(images) if not isinstance(image, EncodedImage)}
    files = {key: images[n] for n, key in keys.items()}
    if any(key not in cache.images for key in files):
        # With concurrent runs, the first one encodes; the others wait and then find everything in the cache.
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
