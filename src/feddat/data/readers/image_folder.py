"""Find a record's images, and refuse those outside the client's images folder.

Records may come from untrusted sources and be read on a machine with other people's files. Unless the client's owner
allows more, every image must be in the images folder: ``..``, an absolute path, or a link from an unpacked archive
cannot lead out of it. The only links followed are those of the Hub's cache, to the files of the same dataset.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from feddat.hub import stores_of
from feddat.text import find_file


class OutsideError(ValueError):
    """A record names a file outside the images folder; the message says what to do, without the file's name."""


@dataclass(frozen=True, slots=True)
class Below:
    """A file below one of a published dataset's own folders.

    The folder's name is part of the format, not of the record. The folder may be a link, made by whoever unpacked the
    dataset.
    """

    folder: str
    name: str


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The folder of a client's images.

    Attributes:
        path: the folder that names are relative to.
        outside: whether records may name files outside it.
    """

    path: Path
    outside: bool = False
    _resolved: dict[Path, Path] = field(default_factory=dict, repr=False, compare=False)

    def find(self, name: str, below: str = "") -> Path | None:
        """Return the path of an image file; ``None`` if there is none.

        Args:
            name: name in the record.
            below: subfolder that the name is relative to, and that must contain the file.

        Raises:
            OutsideError: the file is outside the folder, and ``outside`` is false.
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
        except (ValueError, OSError):  # no such file, or not a valid name
            return None
        # Each folder is resolved once. Of the files, only links can lead elsewhere.
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
    """Return whether the file exists; ``False`` for a name that no file can have."""
    try:
        return path.is_file()
    except (ValueError, OSError):  # a null character in the name, or a name that is too long
        return False


def is_folder(path: Path) -> bool:
    """Return whether the folder exists; see :func:`is_file`."""
    try:
        return path.is_dir()
    except (ValueError, OSError):
        return False


def _within(path: Path, folder: Path) -> bool:
    return path == folder or path.is_relative_to(folder)


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (ValueError, OSError, RuntimeError):  # not a valid name, or a circle of links
        return path.absolute()
