"""The folder of a client's images, and what a record may name in it.

A file of records may come from anywhere, and be read on a machine with other people's files. Unless the client's owner
says otherwise, what it names has to lie in the images folder: neither ``..`` nor an absolute path nor a link that an
archive brought along leads out of it. Folders of the Hub's cache hold links to where it keeps one dataset's files:
those may be followed.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from feddat.hub import stores_of
from feddat.text import find_file


class OutsideError(ValueError):
    """A record names a file outside the images folder; says what to do, without the file's name."""


@dataclass(frozen=True, slots=True)
class Below:
    """What a record of a published dataset names: a file below one of the dataset's own folders.

    That folder's name is part of the format, not of the record, and whoever unpacked the dataset may have put a link in
    its place.
    """

    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Where the images of a client's records are.

    Attributes:
        path: the folder that names are relative to.
        outside: whether records may name files elsewhere.
    """

    path: Path
    outside: bool = False
    _resolved: dict[Path, Path] = field(default_factory=dict, repr=False, compare=False)

    def find(self, name: str, below: str = "") -> Path | None:
        """Return the path of an image file; ``None`` if there is none.

        Args:
            name: as a record gives it.
            below: a folder in this one that it is relative to, and that it has to lie in.

        Raises:
            OutsideError: it lies elsewhere, and may not.
        """
        base = self.path / below
        path = base / name
        if self.outside:
            path = find_file(path)
            return path if is_file(path) else None
        if (Path(name).is_absolute() or ".." in Path(name).parts) and not _within(_resolve(path), self._folder(base)):
            raise self._error(base)
        path = find_file(path)
        try:
            mode = path.lstat().st_mode
        except (ValueError, OSError):  # no such file, or no name of one
            return None
        # Folders are looked at once; of files, links alone can lead elsewhere.
        resolved = _resolve(path) if stat.S_ISLNK(mode) else self._folder(path.parent)
        places = (base, *stores_of(base)) if stat.S_ISLNK(mode) else (base,)
        if not any(_within(resolved, self._folder(place)) for place in places):
            raise self._error(base)
        return path if stat.S_ISREG(mode) or is_file(path) else None

    def _folder(self, path: Path) -> Path:
        if path not in self._resolved:
            self._resolved[path] = _resolve(path)
        return self._resolved[path]

    @staticmethod
    def _error(base: Path) -> OutsideError:
        return OutsideError(
            f"lies outside the images folder {base}; give a folder that holds all images, or set pictures.outside=true "
            "for this client"
        )


def is_file(path: Path) -> bool:
    """Return whether there is such a file; there is none under a name that cannot be one."""
    try:
        return path.is_file()
    except (ValueError, OSError):  # a null character in the name, or a name that is too long
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; see :func:`is_file`."""
    try:
        return path.is_dir()
    except (ValueError, OSError):
        return False


def _within(path: Path, folder: Path) -> bool:
    return path == folder or path.is_relative_to(folder)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (ValueError, OSError, RuntimeError):  # no name of a file, or links in a circle
        return path.absolute()
