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
    """Return a certificate that binds a key to a client's name, valid only for client authentication.

    Args:
        authority: the authority that signs it.
        name: name of the client.
        key: the public key of the client's node.
        days: number of days that it is valid.
        now: start of its validity; default: now.
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
    """Write the certificate of a client whose public key is in a file such as ``node.pub``.

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
