"""The members of a consortium: admit clients, remove them and change their keys while the SuperLink runs.

The server's folder lists the members: ``clients/NAME.pub``, one key per name. A removed key moves to ``revoked/NAME/``
and is never admitted again. The name stays with the institution; another key gets it only if the administrator says so.
A running SuperLink learns of a change at once, a stopped one when it starts (:func:`.control.let_in`). A run reads the
same folder before each round (:mod:`feddat.app.roster`).
"""

from __future__ import annotations

import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from feddat.admitted import ENDING, FOLDER, REVOKED, admitted_names
from feddat.client_names import same_name
from feddat.deploy import pki
from feddat.deploy.enrolment import ClientRequest
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import ServerFolder
from feddat.files import locked, private_folder, sync_folder


class Members:
    """The clients of one server.

    Args:
        server: the server's folder.
    """

    def __init__(self, server: ServerFolder) -> None:
        self._server = server
        self._keys, self._revoked = server.path / FOLDER, server.path / REVOKED

    def key(self, name: str) -> ec.EllipticCurvePublicKey | None:
        """Return a client's key; ``None`` if it is not a member."""
        path = self._file(name)
        return pki.read_public_key(path) if path.is_file() else None

    def revoked(self) -> dict[str, list[str]]:
        """Return the names with revoked keys, and the fingerprints of these keys."""
        return {
            folder.name: [pki.key_fingerprint(pki.read_public_key(path)) for path in sorted(folder.glob(f"*{ENDING}"))]
            for folder in sorted(self._revoked.glob("*"))
            if folder.is_dir()
        }

    def names(self) -> list[str]:
        """Return the names of the members."""
        return admitted_names(self._server.path)

    def is_new(self, request: ClientRequest) -> bool:
        """Return whether nothing vouches for a request's key yet: neither this folder nor the client's old key."""
        old = self.key(request.name)
        return old is None or not (old == request.key or request.renews(old, self._authority()))

    def admit(self, request: ClientRequest, again: bool = False) -> str:
        """Admit a client, or replace its old key with its new one; return the outcome in a few words.

        Args:
            request: the client's request. Its fingerprint must have been compared, or its old key must have signed it.
            again: give a name another key although it was revoked, or although its key did not sign the request.

        Raises:
            DeployError: the key was revoked or belongs to another client; or the name is taken or was revoked.
            CertificateError: a key in the folder cannot be read.
        """
        name, key = request.name, request.key
        with locked(self._keys, wait=True):
            if pair := same_name([*self.names(), *self.revoked(), name]):
                raise DeployError(f"client {name}: {pair[0]!r} and {pair[1]!r} differ only in letter case")
            if owner := next((n for n, keys in self.revoked().items() if request.fingerprint in keys), None):
                raise DeployError(
                    f"client {name}: its key was revoked as the key of {owner}; make a new one (`feddat deploy renew`)"
                )
            if owner := next((other for other in self.names() if other != name and self.key(other) == key), None):
                raise DeployError(f"client {name}: its key belongs to client {owner}")
            old = self.key(name)
            if old == key:
                return "was let in already"
            if old is not None and not request.renews(old, self._authority()) and not again:
                raise DeployError(
                    f"client {name}: has another key, {pki.key_fingerprint(old)}, which did not sign this request; if "
                    f"that key is lost, revoke it (`feddat deploy revoke {name}`) and admit this one with --again"
                )
            if old is None and name in self.revoked() and not again:
                raise DeployError(
                    f"client {name}: was revoked; if it is the same institution, --again gives the name another key"
                )
            if old is not None:
                self._keep_out(name, old)
            pki.write_public_key(self._file(name), key, name)
        return "is let in" if old is None else "has a new key; the old one is revoked"

    def revoke(self, name: str) -> str:
        """Remove a client; return the fingerprint of its key.

        Raises:
            DeployError: it is not a member.
            CertificateError: its key cannot be read.
        """
        with locked(self._keys, wait=True):
            if (key := self.key(name)) is None:
                raise DeployError(f"client {name}: not let in here; clients are {', '.join(self.names()) or 'none'}")
            self._keep_out(name, key)
            self._file(name).unlink()
            sync_folder(self._keys)
        return pki.key_fingerprint(key)

    def tell(self) -> bool:
        """Tell the SuperLink who the members are; return whether it is running.

        Raises:
            DeployError: it is running, but cannot be told.
        """
        from feddat.deploy.control import Control, let_in

        host, _, port = self._server.local_address.rpartition(":")
        with closing(socket.socket()) as probe:
            probe.settimeout(5)
            if probe.connect_ex((host, int(port))):
                return False
        with closing(Control(self._server.local_address, self._server.authority)) as control:
            control.wait(30)
            if problems := let_in(control, self._server):
                raise DeployError("; ".join(problems))
        return True

    def _keep_out(self, name: str, key: ec.EllipticCurvePublicKey) -> None:
        folder = private_folder(self._revoked / name)
        number = len(list(folder.glob(f"*{ENDING}"))) + 1
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        pki.write_public_key(folder / f"{number}{ENDING}", key, f"{name}, revoked {when}")

    def _file(self, name: str) -> Path:
        return self._keys / f"{name}{ENDING}"

    def _authority(self) -> x509.Certificate:
        return pki.read_certificate(self._server.authority)
