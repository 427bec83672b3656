"""Certificates of clients: by them clients know each other in secure sums, whatever the server says.

The server knows clients by their keys alone and needs none of this. Whoever holds the authority's key can make a client
of anybody: it belongs to somebody other than who runs the server.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddat.deploy.pki import SERVER_DAYS, Authority, CertificateError, write_certificate


def client_certificate(
    authority: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    days: int = SERVER_DAYS,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """Return a certificate that says whose a client's key is; it is good for a client, and for nothing else.

    Args:
        authority: who signs it.
        name: the client's.
        key: the public half of its node's key.
        days: for how long it is good.
        now: from when; default: now.
    """
    begin = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


def certify(authority: Authority, public_key: Path, name: str, to: Path, days: int = SERVER_DAYS) -> None:
    """Write the certificate of a client whose public key lies in a file, as ``node.pub`` does.

    Raises:
        CertificateError: the key cannot be used.
    """
    try:
        key = load_ssh_public_key(public_key.read_bytes())
    except OSError as error:
        raise CertificateError(f"public key {public_key}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"public key {public_key}: not in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateError(f"public key {public_key}: not on an elliptic curve")
    write_certificate(to, client_certificate(authority, name, key, days))
