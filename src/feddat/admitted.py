"""The clients that a server admits: one public key each, in ``clients/NAME.pub`` of the server's folder.

``feddat deploy admit`` and ``revoke`` add and remove files during a run, each atomically, so every call reads the
folder again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

log = logging.getLogger(__name__)

#: Subfolders for admitted and for revoked keys, and the file extension of keys.
FOLDER, REVOKED, ENDING = "clients", "revoked", ".pub"


def admitted_names(server: Path) -> list[str]:
    """Return the names of the admitted clients, sorted."""
    return sorted(path.stem for path in (server / FOLDER).glob(f"*{ENDING}"))


def admitted_keys(server: Path) -> dict[str, bytes]:
    """Return the admitted clients: name -> public key in PEM, the SuperLink's form.

    Ignore files that cannot be read or hold no elliptic-curve key.
    """
    found = {name: _pem(server / FOLDER / f"{name}{ENDING}") for name in admitted_names(server)}
    return {name: key for name, key in found.items() if key is not None}


def revoked_keys(server: Path) -> set[bytes]:
    """Return the revoked keys in PEM, from ``revoked/NAME/NUMBER.pub``."""
    return {key for path in (server / REVOKED).glob(f"*/*{ENDING}") if (key := _pem(path)) is not None}


def admission(server: Path | None) -> Callable[[], dict[str, bytes]] | None:
    """Return a function that returns the currently admitted clients; ``None`` if there is no such server folder."""
    if server is None:
        return None
    if not (server / FOLDER).is_dir():
        log.warning("%s: not found; only the SuperLink decides who is let in", server / FOLDER)
        return None
    return partial(admitted_keys, server)


class KeyFileError(ValueError):
    """A file is not a client's public key; the message names the file."""


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a client's public key in OpenSSH's format.

    Raises:
        KeyFileError: the file cannot be read, or is not such a key.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"public key {path}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # the last one: a compressed point
        raise KeyFileError(f"public key {path}: not in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError(f"public key {path}: not on an elliptic curve")
    return key


def _pem(path: Path) -> bytes | None:
    try:
        key = read_public_key(path)
    except KeyFileError:
        return None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
