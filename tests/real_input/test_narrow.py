"""Pictures of a few pixels a side: every family refuses them with the same error, or takes them padded with white."""

import numpy as np
import pytest
from PIL import Image

from feddat.example import DataError, View
from feddat.models.catalog import DECODERS, load_encoder
from feddat.models.encoding import encode_image, encode_views
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from helpers import make_unit

FAMILIES = ("vilt", "blip", "albef", "clip", "siglip", *DECODERS)
TINY = [(1, 1), (2, 2), (3, 3), (1, 40), (40, 1), (2, 50), (3, 30), (30, 3)]
LONG = [(4, 900), (900, 4), (1, 300), (300, 1), (3, 5000)]


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory):
    return load_encoder(str(make_unit(request.param, tmp_path_factory.mktemp(request.param))))


def saved(folder, height: int, width: int):
    path = folder / f"{width}x{height}.png"
    Image.fromarray(np.full((height, width, 3), (255, 0, 0), np.uint8)).save(path)
    return path


def test_every_family_refuses_them_in_the_same_words(encoder, tmp_path):
    for height, width in TINY + LONG:
        path = saved(tmp_path, height, width)
        with pytest.raises(DataError) as caught:
            encode_views(encoder, [View(path, "what ?")])
        assert str(caught.value) == (
            f"image {path}: {width} x {height} pixels are too narrow: expected at least 4 pixels a side, and neither "
            f"side more than {encoder.widest:g} times the other; leave the picture out, or set pictures.pad=true, "
            "which pads it with white"
        )


def test_every_family_takes_them_padded(encoder, tmp_path):
    for height, width in TINY + LONG:
        reader = PictureReader(PictureSettings(pad=True))
        picture = encode_image(encoder, saved(tmp_path, height, width), reader)
        assert reader.notes.counts == {Note.PADDED: 1}
        assert picture.shape[0] == 3 and min(picture.shape[1:]) >= 1
        assert int(picture[1].max()) > 0  # white was added to the red
        if hasattr(encoder, "process"):
            assert encoder.process(picture)[1]


def test_every_family_takes_what_is_just_wide_enough_as_it_is(encoder):
    widest = int(encoder.widest)
    for height, width in [(4, 4), (4, 4 * widest), (4 * widest, 4), (5, 5 * widest)]:
        reader = PictureReader()
        picture = encode_image(encoder, np.full((height, width, 3), 200, np.uint8), reader)
        assert not reader.notes.counts and min(picture.shape[1:]) >= 1
        assert (picture == 200).all()
        if hasattr(encoder, "process"):
            assert encoder.process(picture)[1]


def test_what_is_padded_lies_in_the_middle_of_white():
    from feddat.models.narrow import fitting

    reader = PictureReader(PictureSettings(pad=True))
    padded = fitting(np.zeros((1, 40, 3), np.uint8), "x", 8.0, reader)
    assert padded.shape == (5, 40, 3)
    assert (padded[2] == 0).all() and (padded[[0, 1, 3, 4]] == 255).all()
    with pytest.raises(
        DataError, match=r"x: 40 x 1 pixels are too narrow; padded to 40 x 5, they are more than pictures\.max"
    ):
        fitting(np.zeros((1, 40, 3), np.uint8), "x", 8.0, PictureReader(PictureSettings(pad=True, max_pixels=199)))
