"""Read pictures from many file formats as every backbone expects them: RGB, upright, 8 bits per channel.

:class:`PictureReader` reads one client's pictures. docs/data.md lists the formats that it reads, the changes that it
makes and the files that it refuses. The rules of each format are in the module of that name.
"""

from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels
from feddat.pictures.reader import PictureReader, image_name

__all__ = ["Note", "Notes", "PictureReader", "Pixels", "image_name"]
