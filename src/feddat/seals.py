"""Seals: what tells a state file that was written here from one that was altered since.

A seal is the HMAC-SHA256 (RFC 2104) of the whole file under a key of this machine's own, in the file's own header, so
that a file and its seal cannot part. A JSON file has its seal as one more key. The key is made when the first file is
sealed, and only its owner may read it. A seal does not stop whoever can read the key or put another in its place; it
stops those who can write where states lie (a shared disk, a backup) and not where the key does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feddat.files import secret

#: Key of a safetensors file's metadata that holds its seal, and what stands there while the seal is computed.
SEAL, BLANK = "seal", "0" * 64
_PLACE = re.compile(rb'"seal":"([0-9a-f]{64})"')
_BLOCK = 2**20


class SealError(ValueError):
    """A file is not as it was written here; the message says in which way, and does not name the file."""


class NoSealError(SealError):
    """A file has no seal, though others of its kind have."""


class Seal:
    """Seals files under one key, and checks them.

    Args:
        key: file of the key; made when the first file is sealed.
    """

    def __init__(self, key: Path) -> None:
        self.file = key

    @property
    def exists(self) -> bool:
        """Whether anything was ever sealed with this key."""
        return self.file.is_file()

    def put(self, path: Path, name: str) -> None:
        """Seal a safetensors file whose metadata has ``seal`` blank.

        Args:
            path: where it lies now.
            name: that it is going to have; a file under another name does not fit its seal.

        Raises:
            OSError: the key or the file cannot be written.
            ValueError: the file has no place for a seal.
        """
        found = _place(path)
        if found is None:
            raise ValueError(f"{path}: no place for a seal")
        at, _ = found
        with path.open("r+b") as file:
            file.seek(at)
            file.write(_code(self._key(), path, at, name).encode())

    def check(self, path: Path, name: str | None = None) -> bool:
        """Check a file's seal.

        Args:
            path: the file.
            name: under which it was sealed; default: its own.

        Returns:
            Whether it has one. It may have none as long as nothing was ever sealed here: it is of an earlier version.

        Raises:
            SealError: it does not fit, or is missing though this machine has a key, or there is no key to check it.
            OSError: the file or the key cannot be read.
        """
        found = _place(path)
        if found is None:
            if self.exists:
                raise NoSealError("without a seal, though states written here have one")
            return False
        if not self.exists:
            raise SealError(f"its seal cannot be checked: {self.file} is gone")
        at, seal = found
        if not hmac.compare_digest(_code(self._key(), path, at, name or path.name), seal):
            raise SealError("altered after it was written: its seal does not fit")
        return True

    def sealed_values(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return a JSON object with its seal; any seal that it has is left out.

        Args:
            values: what JSON can hold.
            name: of the file that it is going to be.

        Raises:
            OSError: the key cannot be written.
        """
        plain = {key: value for key, value in values.items() if key != SEAL}
        return plain | {SEAL: _values_code(self._key(), plain, name)}

    def check_values(self, values: Mapping[str, Any], name: str) -> bool:
        """Check the seal of a JSON object as :meth:`check` checks that of a file; return whether it has one.

        Raises:
            SealError: as :meth:`check`.
            OSError: the key cannot be read.
        """
        if SEAL not in values:
            if self.exists:
                raise NoSealError("without a seal, though states written here have one")
            return False
        if not self.exists:
            raise SealError(f"its seal cannot be checked: {self.file} is gone")
        plain = {key: value for key, value in values.items() if key != SEAL}
        if not hmac.compare_digest(_values_code(self._key(), plain, name).encode(), str(values[SEAL]).encode()):
            raise SealError("altered after it was written: its seal does not fit")
        return True

    def _key(self) -> bytes:
        """Return the key, made where there is none."""
        try:
            return secret(self.file)
        except ValueError:
            raise SealError(f"its seal cannot be checked: {self.file} is no key") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, for another, sealed one to hold.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(path: Path) -> tuple[int, str] | None:
    """Return where in a safetensors file its seal stands, and the seal; ``None``: it has none."""
    with path.open("rb") as file:
        size = file.read(8)
        if len(size) < 8:
            return None
        header = file.read(min(struct.unpack("<Q", size)[0], path.stat().st_size))
    found = _PLACE.search(header)
    return None if found is None else (8 + found.start(1), found[1].decode())


def _values_code(key: bytes, values: Mapping[str, Any], name: str) -> str:
    """Return the seal of a JSON object."""
    text = f"{len(name.encode())}:{name}:{json.dumps(values, sort_keys=True)}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _code(key: bytes, path: Path, at: int, name: str) -> str:
    """Return the seal of a file as it is with a blank one at ``at``."""
    code = hmac.new(key, f"{len(name.encode())}:{name}:".encode(), hashlib.sha256)
    with path.open("rb") as file:
        code.update(file.read(at))
        code.update(BLANK.encode())
        file.seek(at + len(BLANK))
        while block := file.read(_BLOCK):
            code.update(block)
    return code.hexdigest()
