"""Pictures as every backbone wants them, whatever file they come in: RGB, upright, 8 bits a channel.

:class:`PictureReader` reads one client's pictures. Which formats it reads, what it changes and what it refuses is in
docs/data.md; a format's own rules are in the module of its name.
"""

from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels
from feddat.pictures.reader import PictureReader, image_name

__all__ = ["Note", "Notes", "PictureReader", "Pixels", "image_name"]
