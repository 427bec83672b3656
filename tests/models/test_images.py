import numpy as np
import pytest
from PIL import Image

from feddat.example import DataError
from feddat.models.images import read_rgb


def saved(tmp_path, image: Image.Image, name: str = "image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB", "LA", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    white = Image.new("RGB", (5, 3), "white").convert(mode)
    pixels = read_rgb(saved(tmp_path, white, "image.tif" if mode == "CMYK" else "image.png"))
    assert pixels.shape == (3, 5, 3) and pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_transparency_becomes_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    assert read_rgb(saved(tmp_path, half)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_transparent_palette_colour_becomes_white(tmp_path):
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert read_rgb(saved(tmp_path, palette, transparency=0)).tolist() == [[[255, 255, 255]]]


def test_sixteen_bit_gray_is_scaled(tmp_path):
    gray = Image.fromarray(np.array([[0, 128 * 256, 65535]], dtype=np.uint16))
    assert read_rgb(saved(tmp_path, gray))[0, :, 0].tolist() == [0, 128, 255]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert read_rgb(saved(tmp_path, image, "image.jpg", exif=exif)).shape == (4, 2, 3)


def test_a_rotation_told_in_xmp_is_applied(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    told = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", xmp=told)
    assert read_rgb(tmp_path / "turned.jpg").shape == (16, 8, 3)


def test_a_jpeg_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "large.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"large\.jpg: cannot be decoded"):
        read_rgb(tmp_path / "large.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True, "quality": 40}])
def test_jpeg_pixels_are_those_of_pillow(tmp_path, mode, options):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise).convert(mode), "image.jpg", **options)
    with Image.open(path) as image:
        assert np.array_equal(read_rgb(path), np.array(image.convert("RGB")))
    assert np.array_equal(read_rgb(path.read_bytes()), read_rgb(path))


def test_half_a_jpeg_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "image.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"image\.jpg: cannot be decoded"):
        read_rgb(path)


def test_array_is_returned_as_it_is():
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    assert read_rgb(pixels) is pixels


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 3), "float32"), ((2, 3), "uint8"), ((2, 3, 4), "uint8"), ((0, 3, 3), "uint8")]
)
def test_other_arrays_are_refused(shape, dtype):
    with pytest.raises(DataError, match=r"expected uint8 of shape \(H, W, 3\)"):
        read_rgb(np.zeros(shape, dtype))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: no such file"):
        read_rgb(tmp_path / "nowhere.png")


@pytest.mark.parametrize("content", [b"", b"not an image", "torn"])
def test_damaged_file_is_named(tmp_path, content):
    path = saved(tmp_path, Image.effect_noise((64, 64), 50).convert("RGB"), "photo.png")
    path.write_bytes(path.read_bytes()[:500] if content == "torn" else content)
    with pytest.raises(DataError, match=r"photo\.png: cannot be decoded"):
        read_rgb(path)


def test_bytes_of_a_file_are_decoded(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 2), (1, 2, 3)))
    assert (read_rgb(path.read_bytes()) == read_rgb(path)).all()
    with pytest.raises(DataError, match="image in memory: cannot be decoded"):
        read_rgb(path.read_bytes()[:40])
