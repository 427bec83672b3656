"""Renew the server's certificate, also if the authority's key is elsewhere. A running SuperLink loads the new one.

If the authority's key is on the same machine, ``feddat deploy renew SERVER --authority DIR`` does everything. Otherwise
the server makes a request and keeps its new private key, ``feddat deploy sign`` makes the certificate where the
authority's key is, and ``renew SERVER --certificate FILE`` installs it. Clients notice nothing, since they trust the
authority, which stays the same.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from feddat.deploy import pki
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import ServerFolder, own_hosts

log = logging.getLogger(__name__)

#: A server's next private key, kept until its certificate is installed, and the request for that certificate.
_NEXT_KEY, _REQUEST = "server-new.key", "server.csr"
#: Seconds between two checks for a new certificate.
LOOK_SECONDS = 5.0


def request_certificate(server: ServerFolder) -> Path:
    """Make the server's next private key, and return the path of the request for an authority to sign."""
    key = pki.new_key()
    pki.write_private_key(server.path / _NEXT_KEY, key)
    path = server.path / _REQUEST
    pki.write_request(path, pki.server_request(key, own_hosts(server.hosts)))
    return path


@dataclass(frozen=True)
class ServerRequest:
    """A server's request for a certificate, as it was read.

    Attributes:
        request: signed by the key that it names.
        hosts: names and addresses of the server.
        fingerprint: of the server's new key.
    """

    request: x509.CertificateSigningRequest
    hosts: tuple[str, ...]
    fingerprint: str

    def sign(self, authority: pki.Authority, to: Path) -> None:
        """Write the certificate. The fingerprint must have been compared, unless the request was made here.

        Raises:
            CertificateError: the key is not on an elliptic curve.
        """
        pki.write_certificate(to, pki.sign_request(authority, self.request))


def read_server_request(path: Path) -> ServerRequest:
    """Read a server's request.

    Raises:
        CertificateError: the file is not a server's request, or its key is of another kind than servers make.
    """
    request = pki.read_request(path)
    hosts, key = tuple(pki.request_hosts(request)), request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise pki.CertificateError(f"request {path}: its key is not on the elliptic curve P-384")
    return ServerRequest(request, hosts, pki.key_fingerprint(key))


def install(server: ServerFolder, certificate: Path) -> x509.Certificate:
    """Install a certificate that was signed for the server's request, together with its key.

    Raises:
        CertificateError: it is not valid, or another authority signed it.
        DeployError: it is for another key or other hosts.
    """
    found = pki.read_certificate(certificate)
    pki.check_certificate(found, pki.read_certificate(server.authority), str(certificate))
    key = _next_key(server)
    if key is None or key.public_key() != found.public_key():
        raise DeployError(
            f"certificate {certificate}: not for the key of {server.path / _REQUEST}; have that request signed"
        )
    missing = set(own_hosts(server.hosts)) - set(pki.certificate_hosts(found))
    if missing:
        raise DeployError(f"certificate {certificate}: not for {', '.join(sorted(missing))}")
    # Write the key first: a process that looks in between finds a key and a certificate that do not fit, and retries.
    pki.write_private_key(server.path / "server.key", key)
    pki.write_certificate(server.path / "server.crt", found)
    for path in (server.path / _NEXT_KEY, server.path / _REQUEST):
        path.unlink(missing_ok=True)
    return found


def renew(server: ServerFolder, authority: pki.Authority) -> x509.Certificate:
    """Give the server a new key and certificate, with the authority's key.

    Raises:
        CertificateError: the authority is another consortium's.
    """
    request = request_certificate(server)
    certificate = server.path / "server-new.crt"
    try:
        read_server_request(request).sign(authority, certificate)
        return install(server, certificate)
    finally:
        certificate.unlink(missing_ok=True)


def reloading(certificate: Path, key: Path) -> None:
    """Make this process's server, which must not have started yet, load a renewed certificate without a restart.

    Open connections stay; new ones get the new certificate.
    """
    from uvicorn import config

    create = config.create_ssl_context

    def watched(*args: object, **kwargs: object) -> ssl.SSLContext:
        context: ssl.SSLContext = create(*args, **kwargs)  # type: ignore[arg-type]
        threading.Thread(target=_watch, args=(context, certificate, key), daemon=True).start()
        return context

    config.create_ssl_context = watched


def _watch(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    seen = _stamp(certificate, key)
    while True:
        time.sleep(LOOK_SECONDS)
        if (now := _stamp(certificate, key)) == seen:
            continue
        try:
            # Try them in a new context first: loading a pair that does not fit would make the live context unusable.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            context.load_cert_chain(certificate, key)
        except OSError:  # includes ssl.SSLError: only one of the two has been replaced yet
            continue
        seen = now
        log.warning("new certificate: valid until %s", pki.read_certificate(certificate).not_valid_after_utc.date())


def _stamp(*paths: Path) -> tuple[int, ...]:
    try:
        return tuple(path.stat().st_mtime_ns for path in paths)
    except OSError:
        return ()


def _next_key(server: ServerFolder) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key((server.path / _NEXT_KEY).read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
