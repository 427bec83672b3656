"""Seals show whether a state file was altered since this machine wrote it.

A seal is the HMAC-SHA256 (RFC 2104) of the whole file under this machine's own key. It is in the file's header, so a
file and its seal cannot be separated. A JSON file has its seal as one more entry. The key is created with the first
seal, and only its owner can read it. Seals do not stop anyone who can read or replace the key. They do stop anyone who
can write to the states (a shared disk, a backup) but not to the key.
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

from feddat.files import secret, write_json

#: Metadata key of the seal in a safetensors file, and its placeholder value while the seal is computed.
SEAL, BLANK = "seal", "0" * 64
_PLACE = re.compile(rb'"seal":"([0-9a-f]{64})"')
_BLOCK = 2**20


class SealError(ValueError):
    """A file differs from what this machine wrote; the message says how, but does not name the file."""


class Seal:
    """Seal files with one key, and check their seals.

    Args:
        key: file of the key; created with the first seal.
    """

    def __init__(self, key: Path) -> None:
        self.file = key

    @property
    def exists(self) -> bool:
        """Whether the key exists, so that something has been sealed with it."""
        return self.file.is_file()

    def put(self, path: Path, name: str) -> None:
        """Seal a safetensors file whose metadata has a blank ``seal``.

        Args:
            path: its current path.
            name: its final name; under another name the file does not match its seal.

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
            name: the name under which it was sealed; default: its current name.

        Returns:
            Whether it has a seal. A file of an earlier version has none, and is accepted until the first seal is made.

        Raises:
            SealError: the seal does not match, or is missing although this machine has a key, or the key is missing.
            OSError: the file or the key cannot be read.
        """
        found = _place(path)
        if found is None:
            if self.exists:
                raise SealError("it has no seal, but states written here have one")
            return False
        if not self.exists:
            raise SealError(f"its seal cannot be checked: {self.file} is missing")
        at, seal = found
        if not hmac.compare_digest(_code(self._key(), path, at, name or path.name), seal):
            raise SealError("altered after it was written: its seal does not match")
        return True

    def sealed_values(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return a JSON object with a new seal in place of any that it has.

        Args:
            values: any values that JSON can hold.
            name: name of the file that the object will be written to.

        Raises:
            OSError: the key cannot be written.
        """
        plain = {key: value for key, value in values.items() if key != SEAL}
        return plain | {SEAL: _values_code(self._key(), plain, name)}

    def check_values(self, values: Mapping[str, Any], name: str) -> bool:
        """Check the seal of a JSON object as :meth:`check` does for a file; return whether the object has a seal.

        Raises:
            SealError: as :meth:`check`.
            OSError: the key cannot be read.
        """
        if SEAL not in values:
            if self.exists:
                raise SealError("it has no seal, but states written here have one")
            return False
        if not self.exists:
            raise SealError(f"its seal cannot be checked: {self.file} is missing")
        plain = {key: value for key, value in values.items() if key != SEAL}
        if not hmac.compare_digest(_values_code(self._key(), plain, name).encode(), str(values[SEAL]).encode()):
            raise SealError("altered after it was written: its seal does not match")
        return True

    def read_values(self, path: Path, name: str, required: bool = True) -> tuple[dict[str, Any], bool]:
        """Read a JSON file and check its seal; return its values and whether it has a seal.

        Args:
            path: the file.
            name: the name under which it was sealed.
            required: whether a missing seal is an error, as in :meth:`check`.

        Raises:
            SealError: as :meth:`check`.
            OSError: the file or the key cannot be read; ``FileNotFoundError``: there is no such file.
            ValueError: the file is not a JSON object.
        """
        found = _json_object(path)
        if SEAL not in found and not required:
            return found, False
        return found, self.check_values(found, name)

    def write_values(self, path: Path, values: Mapping[str, Any], name: str) -> None:
        """Write a JSON file, sealed, whole or not at all.

        Args:
            path: the file.
            values: any values that JSON can hold.
            name: the name under which it is sealed.

        Raises:
            OSError: the file or the key cannot be written.
        """
        write_json(path, self.sealed_values(values, name))

    def values_to_seal(self, path: Path, name: str, altered: bool = True) -> dict[str, Any] | None:
        """Return the values of a JSON file that has no seal or, with ``altered``, one that does not fit.

        Return ``None`` for all other files, and for files that cannot be read; :meth:`read_values` reports them.
        """
        try:
            found = _json_object(path)
            settled = self.check_values(found, name)
        except SealError:
            settled = not altered
        except (OSError, ValueError):
            return None
        return None if settled else found

    def seed(self, *names: str | int) -> int:
        """Return a seed of 256 bits that only this machine knows, for these names; the key is created if missing.

        Raises:
            SealError: the file is not a key.
            OSError: the key cannot be written or read.
        """
        return int.from_bytes(hmac.new(self._key(), json.dumps(["seed", *names]).encode(), hashlib.sha256).digest())

    def _key(self) -> bytes:
        """Return the key; create it if it is missing."""
        try:
            return secret(self.file)
        except ValueError:
            raise SealError(f"its seal cannot be checked: {self.file} is not a key") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, for another file to hold under its seal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _place(path: Path) -> tuple[int, str] | None:
    """Return the offset of a safetensors file's seal, and the seal; ``None`` if it has none."""
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
    """Return the seal of a file, computed with a blank one at offset ``at``."""
    code = hmac.new(key, f"{len(name.encode())}:{name}:".encode(), hashlib.sha256)
    with path.open("rb") as file:
        code.update(file.read(at))
        code.update(BLANK.encode())
        file.seek(at + len(BLANK))
        while block := file.read(_BLOCK):
            code.update(block)
    return code.hexdigest()
