"""Reader for one client's pictures."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from feddat.example import DataError, Image
from feddat.picture_settings import PictureSettings
from feddat.pictures import jpeg
from feddat.pictures.formats import HEAD, detect
from feddat.pictures.notes import Notes
from feddat.pictures.pixels import Pixels, UnreadableError


class PictureReader:
    """Read pictures from memory and from files, and count the changes made to them. Threads can share a reader.

    Args:
        settings: settings that say which pictures are accepted and how they are read.

    Attributes:
        settings: these settings.
        notes: counts of the changes so far.
    """

    def __init__(self, settings: PictureSettings | None = None) -> None:
        self.settings = settings or PictureSettings()
        self.notes = Notes()

    def read(self, image: Image) -> Pixels:
        """Return an image as uint8 (H, W, 3), RGB, upright, transparent parts white.

        Raises:
            DataError: the file is missing or cannot be read as a picture, or the array is not uint8 (H, W, 3). The
                message is one line that names the file and says what to do.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                found = f"{image.dtype} of shape {image.shape}"
                raise DataError(f"image in memory: expected uint8 of shape (H, W, 3), got {found}")
            return image
        try:
            if isinstance(image, bytes):
                return self._decode(BytesIO(image))
            with image.open("rb") as file:
                return self._decode(file)
        except UnreadableError as error:
            raise DataError(f"image {image_name(image)}: {error}") from None
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or type(error).__name__
            raise DataError(f"image {image_name(image)}: {reason}") from None
        except MemoryError:
            raise DataError(f"image {image_name(image)}: not enough memory to decode it") from None

    def _decode(self, file: BinaryIO) -> Pixels:
        name = detect(file.read(HEAD))
        file.seek(0)
        if name == "JPEG":
            return jpeg.read(file, self.settings, self.notes)
        if name == "DICOM":
            from feddat.pictures import dicom

            return dicom.read(file, self.settings, self.notes)
        from feddat.pictures import still

        return still.read(file, name, self.settings, self.notes)


def image_name(image: Image) -> str:
    """Return the name of an image for messages."""
    return str(image) if isinstance(image, Path) else "in memory"
