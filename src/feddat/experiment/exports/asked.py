"""The forms in which a program may give a question and its pictures to an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image as PILImage
from PIL.ExifTags import Base

from feddat.example import DataError, Example, Image
from feddat.text import normal_text

#: Modes of Pillow images that PNG supports, and those that only TIFF keeps as they are.
_AS_PNG = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_AS_TIFF = ("I", "I;16B", "F", "CMYK", "LAB")
#: Modes that become another one with the same content first; "I" only if 16 bits hold its values.
_AS_MODE = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA", "I": "I;16"}
#: A picture: a file, the bytes of a file, pixels (uint8, H x W x 3), or a Pillow image.
Picture: TypeAlias = str | Path | bytes | np.ndarray[Any, Any] | PILImage.Image
#: A question: an example, or a picture (for ``nlvr2``, a list of two) and a question.
Asked: TypeAlias = Example | tuple[Picture | Sequence[Picture], str]


def asked_example(number: int, asked: Asked) -> Example:
    """Return the example for the question with this number.

    Raises:
        DataError: it is in no known form, its question is empty, or a picture is in no known form or damaged.
    """
    if isinstance(asked, Example):
        return asked
    if not isinstance(asked, list | tuple) or len(asked) != 2:
        raise DataError(f"question {number}: expected a picture and a question, or an Example; got {asked!r}")
    return as_example(f"question {number}", *asked)


def as_example(id: str, image: Picture | Sequence[Picture], question: str, choices: Sequence[str] = ()) -> Example:
    """Return an example with texts and pictures in the forms that files give.

    Raises:
        DataError: the question is empty or no text, or a picture is in no known form or damaged.
    """
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"question: expected text, got {question!r}")
    pictures = tuple(map(_image, image)) if isinstance(image, list | tuple) else (_image(image),)
    return Example(id, pictures, normal_text(question).strip(), choices=tuple(normal_text(one) for one in choices))


def _image(picture: Any) -> Image:
    if isinstance(picture, PILImage.Image):
        try:
            return _as_file(picture)
        except (OSError, ValueError, SyntaxError) as error:  # as Pillow raises for a file that ends early, for example
            raise DataError(f"picture: Pillow cannot read or encode the image: {error}") from None
    if isinstance(picture, str | Path):
        return Path(picture).expanduser()
    if isinstance(picture, bytes | np.ndarray):
        return picture
    raise DataError(f"picture: expected a file, bytes, pixels or a Pillow image, got {type(picture).__name__}")


def _as_file(image: PILImage.Image) -> bytes:
    """Encode a Pillow image, so that transparency, orientation and bit depth are handled as in any file."""
    image.load()  # Pillow turns some pictures now, and then forgets their orientation
    buffer = BytesIO()
    exif = image.getexif()
    if image.mode in _AS_TIFF and not _has_16_bits(image):
        kept = PILImage.Exif()
        # Of the source file's entries, many describe its own layout.
        kept[Base.Orientation] = exif.get(Base.Orientation, 1)
        image.save(buffer, "TIFF", exif=kept, icc_profile=image.info.get("icc_profile"), compression="raw")
        return buffer.getvalue()
    if image.mode not in _AS_PNG:
        image = image.convert(_AS_MODE.get(image.mode, "RGB"))
    image.save(buffer, "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()


def _has_16_bits(image: PILImage.Image) -> bool:
    """Return whether an image of 32 bits has 16: Pillow opens such files, PGM for example, with more than they have."""
    values = np.asarray(image) if image.mode == "I" and image.format != "TIFF" else np.full(1, -1)
    return bool(((values >= 0) & (values < 2**16)).all())
