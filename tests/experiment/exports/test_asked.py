"""Pictures and questions from a program's memory count as the same ones in files do."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from feddat.example import DataError
from feddat.experiment.exports.asked import as_example
from feddat.models.folder_encoder import as_tensor
from feddat.pictures import PictureReader

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
BYTES = (RAMP // 256).astype(np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6

FORMS = {
    "16-bit PNG": (Image.fromarray(RAMP.astype(np.uint16)), "PNG", {}),
    "16-bit TIFF": (Image.fromarray(RAMP.astype(np.uint16)), "TIFF", {}),
    "16-bit big-endian TIFF": (
        Image.frombytes("I;16B", (64, 64), RAMP.astype(np.uint16).byteswap().tobytes()),
        "TIFF",
        {},
    ),
    "16-bit PGM": (Image.fromarray(RAMP.astype(np.int32)), "PPM", {}),
    "32-bit TIFF": (Image.fromarray((RAMP * 30000).astype(np.int32)), "TIFF", {}),
    "signed 32-bit TIFF": (Image.fromarray(((RAMP - 9999) * 30000).astype(np.int32)), "TIFF", {}),
    "float TIFF": (Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF", {}),
    "turned 32-bit TIFF": (Image.fromarray((RAMP[:32] * 30000).astype(np.int32)), "TIFF", {"exif": TURNED}),
    "turned JPEG": (Image.fromarray(BYTES[:32]).convert("RGB"), "JPEG", {"exif": TURNED}),
    "CMYK JPEG": (Image.merge("CMYK", [Image.fromarray(BYTES.copy()) for _ in range(4)]), "JPEG", {}),
    "CMYK TIFF": (Image.merge("CMYK", [Image.fromarray(BYTES.copy()) for _ in range(4)]), "TIFF", {}),
    "small 32-bit TIFF": (Image.fromarray((RAMP % 4096).astype(np.int32)), "TIFF", {}),
    "CMYK TIFF with JPEG": (
        Image.merge("CMYK", [Image.fromarray(BYTES.copy()) for _ in range(4)]),
        "TIFF",
        {"compression": "jpeg"},
    ),
    "turned CMYK TIFF": (
        Image.merge("CMYK", [Image.fromarray(BYTES[:32].copy()) for _ in range(4)]),
        "TIFF",
        {"compression": "tiff_lzw", "exif": TURNED},
    ),
    "turned float TIFF": (
        Image.fromarray((RAMP[:32] / 65535).astype(np.float32)),
        "TIFF",
        {"compression": "tiff_lzw", "exif": TURNED},
    ),
    "LAB TIFF": (Image.merge("LAB", [Image.fromarray(BYTES.copy()) for _ in range(3)]), "TIFF", {}),
    "grey with transparency": (Image.merge("LA", [Image.fromarray(BYTES), Image.fromarray(255 - BYTES)]), "PNG", {}),
    "two colours": (Image.fromarray(BYTES > 99), "PNG", {}),
    "a palette": (Image.fromarray(BYTES).convert("RGB").quantize(7), "PNG", {}),
    "with a colour profile": (
        Image.fromarray(BYTES).convert("RGB"),
        "TIFF",
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    ),
}


def pixels(picture):
    (image,) = as_example("question", picture, "what ?").images
    return PictureReader().read(image)


@pytest.mark.parametrize("form", FORMS)
def test_an_open_picture_has_the_pixels_of_its_file(form):
    image, kind, options = FORMS[form]
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    expected = pixels(buffer.getvalue())
    assert len(np.unique(expected)) > 1 or form == "small 32-bit TIFF"
    np.testing.assert_array_equal(pixels(Image.open(BytesIO(buffer.getvalue()))), expected)
    # Without a file's type, a picture of 32 bits whose values fit 16 is taken as one of 16.
    if kind != "JPEG" and not options and form != "small 32-bit TIFF":
        np.testing.assert_array_equal(pixels(image), expected)


@pytest.mark.parametrize(("mode", "same_as"), [("PA", "RGBA"), ("La", "LA"), ("RGBa", "RGBA")])
def test_modes_with_transparency_that_no_file_keeps(mode, same_as):
    """A clear picture is white, whatever its mode."""
    clear = Image.new(same_as, (8, 8), 0)
    assert (pixels(clear) == 255).all()
    assert (pixels((clear.quantize() if mode == "PA" else clear).convert(mode)) == 255).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pixels_may_run_backwards(axis):
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    backwards = np.flip(array, axis)
    assert min(backwards.strides) < 0
    np.testing.assert_array_equal(as_tensor(pixels(backwards)).numpy(), backwards.transpose(2, 0, 1))


def test_texts_are_those_that_files_give():
    example = as_example("question", b"", "  what \u0065\u0301 ?\n", ["cafe\u0301"])
    assert (example.text, example.choices) == ("what \u00e9 ?", ("caf\u00e9",))


def test_open_pictures_that_cannot_be_read():
    buffer = BytesIO()
    Image.fromarray(BYTES).save(buffer, "JPEG")
    for image in (Image.open(BytesIO(buffer.getvalue()[:400])), Image.new("L", (0, 0)), Image.new("I", (0, 0))):
        with pytest.raises(DataError, match="picture: Pillow cannot read or encode the image: "):
            as_example("question", image, "what ?")
