"""Encoding through the cache gives the same as encoding in memory, and decodes each image once."""

import numpy as np
import pytest
import torch
from PIL import Image

from feddat.client.encode import check_encoder, encode_cached
from feddat.data.cache import EncodedImage, EncodingCache
from feddat.example import ClientData, DataError, Example, View
from feddat.models.encoding import encode_image
from feddat.models.vilt.backbone import ViltBackbone
from feddat.pictures import PictureReader

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(model_folder):
    return ViltBackbone(model_folder)


@pytest.fixture
def views(tmp_path):
    """Return views of two image files of different sizes, one of them used twice, of pixels and of bytes."""
    generator = np.random.default_rng(0)
    for name, size in {"a.png": (40, 60), "b.jpg": (70, 33)}.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    a, b = tmp_path / "a.png", tmp_path / "b.jpg"
    images = [a, b, pixels, a, b.read_bytes(), pixels]
    return [View(image, f"what is {'red ' * n}?") for n, image in enumerate(images)]


def same_batches(one, other) -> bool:
    indices = list(range(len(one)))
    first, second = one.batch(indices, CPU), other.batch(indices, CPU)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def cache_in(folder, backbone) -> EncodingCache:
    return EncodingCache(folder / "cache", backbone.encoder.fingerprint)


def no_decoding(self, image):
    raise AssertionError(f"decoded {image}")


def test_views_from_the_cache_are_those_encoded_in_memory(backbone, views, tmp_path, monkeypatch):
    expected = backbone.encode(views)
    first = encode_cached(backbone.encoder, views, cache_in(tmp_path, backbone))
    monkeypatch.setattr(PictureReader, "read", no_decoding)
    second = encode_cached(backbone.encoder, views, cache_in(tmp_path, backbone))
    some = encode_cached(backbone.encoder, views[:2], cache_in(tmp_path, backbone))
    assert same_batches(expected, first)
    assert same_batches(expected, second)
    assert len(some) == 2


def test_only_what_is_new_is_decoded(backbone, views, tmp_path, monkeypatch):
    encode_cached(backbone.encoder, views[:1], cache_in(tmp_path, backbone))
    decoded = []
    encode = backbone.encoder.image
    monkeypatch.setattr(backbone.encoder, "image", lambda image: decoded.append(image) or encode(image))
    encode_cached(backbone.encoder, views[:4], cache_in(tmp_path, backbone))
    assert len(decoded) == 2  # b.jpg and the pixels; a.png was in the cache


def test_a_torn_shard_is_made_again(backbone, views, tmp_path):
    expected = backbone.encode(views)
    encode_cached(backbone.encoder, views, cache_in(tmp_path, backbone))
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    assert same_batches(expected, encode_cached(backbone.encoder, views, cache_in(tmp_path, backbone)))
    again = cache_in(tmp_path, backbone)
    assert len(list(again.images.folder.glob("*.safetensors"))) == 1


def test_images_that_were_prepared_are_taken_as_they_are(backbone, views, tmp_path, monkeypatch):
    encoder = backbone.encoder
    prepared = [
        View(
            EncodedImage.of(encode_image(encoder, view.image, PictureReader()).numpy(), encoder.fingerprint), view.text
        )
        for view in views
    ]
    expected = backbone.encode(views)
    assert same_batches(expected, backbone.encode(prepared))
    monkeypatch.setattr(PictureReader, "read", no_decoding)
    assert same_batches(expected, encode_cached(encoder, prepared, cache_in(tmp_path, backbone)))
    assert not cache_in(tmp_path, backbone).images.folder.exists()


def test_an_image_that_cannot_be_decoded_is_named(backbone, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be decoded"):
        encode_cached(backbone.encoder, [View(tmp_path / "broken.jpg", "a")], cache_in(tmp_path, backbone))


def test_data_prepared_for_another_encoder_is_refused():
    image = EncodedImage.of(np.zeros((3, 4, 4), np.uint8), "one")
    data = ClientData("museum", "vqa", (Example("1", (image,), "?", {"a": 1.0}),), (), ())
    check_encoder(data, "one", "tiny")
    with pytest.raises(DataError, match=r"client museum: prepared for another .* than model big uses"):
        check_encoder(data, "two", "big")
