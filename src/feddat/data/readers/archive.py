"""Read a dataset's pictures from the folder where they were unpacked, or straight from their ZIP archives."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from feddat.data.readers.image_folder import Below
from feddat.example import DataError


class Pictures:
    """Pictures below a folder, or in ZIP files beside it.

    Args:
        root: the dataset's folder.
        folder: folder of the unpacked pictures, below ``root``.
        archives: names of ZIP files in ``root``, read if there is no such folder; missing ones are skipped.
    """

    def __init__(self, root: Path, folder: str, archives: Sequence[str]) -> None:
        self._root, self._folder, self._archives = root, folder, archives
        self._unpacked = (root / folder).is_dir()

    def get(self, name: str) -> Below | bytes:
        """Return the place of a picture below ``root``, or its bytes from an archive.

        Raises:
            DataError: an archive is damaged.
        """
        if self._unpacked:
            return Below(self._folder, name)
        for wanted in (f"{self._folder}/{name}", name):
            if (found := self._entries.get(wanted)) is not None:
                archive, entry = found
                try:
                    return archive.read(entry)
                except (zipfile.BadZipFile, OSError, ValueError) as error:
                    raise DataError(f"{archive.filename}: {entry}: cannot be read: {error}") from None
        return Below(self._folder, name)

    @cached_property
    def _entries(self) -> dict[str, tuple[zipfile.ZipFile, str]]:
        """Entry name, and its name without the archive's top folder -> archive and entry."""
        found: dict[str, tuple[zipfile.ZipFile, str]] = {}
        for name in self._archives:
            path = self._root / name
            if not path.is_file():
                continue
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{path}: cannot be read as a ZIP file: {error}") from None
            for entry in archive.namelist():
                found.setdefault(entry, (archive, entry))
                found.setdefault(entry.partition("/")[2], (archive, entry))
        return found
