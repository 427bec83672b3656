"""Pictures of a dataset where its archive was unpacked, or in the archive itself, which need not be."""

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
        folder: where its pictures are unpacked, below ``root``.
        archives: names of ZIP files in ``root`` that are read where there is no such folder; those that are missing
            are passed over.
    """

    def __init__(self, root: Path, folder: str, archives: Sequence[str]) -> None:
        self._root, self._folder, self._archives = root, folder, archives
        self._unpacked = (root / folder).is_dir()

    def get(self, name: str) -> Below | bytes:
        """Return where a picture is below ``root``, or its bytes out of an archive.

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
        """Return where every entry is, by its name and by its name below the archive's one folder."""
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
