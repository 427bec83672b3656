"""Which clients a server lets in: a public key each, ``clients/NAME.pub`` in the server's folder, read anew each time.

Files come and go while a run is under way (``feddat deploy admit``, ``revoke``); each is whole at every moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

log = logging.getLogger(__name__)

#: Folders of the keys that are let in and of those that never are again, below the server's, and the keys' ending.
FOLDER, REVOKED, ENDING = "clients", "revoked", ".pub"


def admitted_names(server: Path) -> list[str]:
    """Return the names of the clients that are let in, sorted."""
    return sorted(path.stem for path in (server / FOLDER).glob(f"*{ENDING}"))


def admitted_keys(server: Path) -> dict[str, bytes]:
    """Return the clients that are let in: name -> public key in PEM, as a SuperLink keeps it.

    A file that cannot be read, or holds no key on an elliptic curve, lets nobody in.
    """
    found = {name: _pem(server / FOLDER / f"{name}{ENDING}") for name in admitted_names(server)}
    return {name: key for name, key in found.items() if key is not None}


def revoked_keys(server: Path) -> set[bytes]:
    """Return the keys that were taken out, in PEM: ``revoked/NAME/NUMBER.pub``."""
    return {key for path in (server / REVOKED).glob(f"*/*{ENDING}") if (key := _pem(path)) is not None}


def admission(server: Path | None) -> Callable[[], dict[str, bytes]] | None:
    """Return what says at any moment whom a server lets in; ``None`` where there is no such server."""
    if server is None:
        return None
    if not (server / FOLDER).is_dir():
        log.warning("%s: not there; the SuperLink alone says who is let in", server / FOLDER)
        return None
    return partial(admitted_keys, server)


def _pem(path: Path) -> bytes | None:
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
