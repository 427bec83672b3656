"""Client certificates, by which clients identify each other in secure sums without trusting the server.

The server identifies clients by their keys and needs no certificates. Whoever holds the authority's key can make anyone
a client, so the key must belong to somebody other than the server's operator.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddat.deploy import pki


def client_certificate(
    authority: pki.Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    days: int = pki.SERVER_DAYS,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """Return a certificate that binds a key to a client's name, valid only for client authentication.

    Args:
        authority: the authority that signs it.
        name: name of the client.
        key: the public key of the client's node.
        days: number of days that it is valid.
        now: start of its validity; default: now.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        pki.certificate_builder(subject, authority.certificate.subject, key, days, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


def certify(authority: pki.Authority, public_key: Path, name: str, to: Path, days: int = pki.SERVER_DAYS) -> None:
    """Write the certificate of a client whose public key is in a file such as ``node.pub``.

    Raises:
        CertificateError: the key cannot be used.
    """
    certificate = client_certificate(authority, name, pki.read_public_key(public_key), days)
    pki.write_certificate(to, certificate)
