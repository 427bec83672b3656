"""A consortium's own certificate authority, the server's certificate, and a key pair for every client.

The authority signs nothing but the server's certificate: clients use it to know the server. The server knows clients by
their public keys. All keys are on the curve P-384, which Flower asks for.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Certificates of servers and authorities are good for so many days.
SERVER_DAYS, AUTHORITY_DAYS = 397, 3650


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message names the file."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_authority(name: str, now: datetime.datetime | None = None) -> Authority:
    """Return a new certificate authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(who, who, key.public_key(), AUTHORITY_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(certificate, key)


def server_certificate(
    authority: Authority, hosts: Sequence[str], days: int = SERVER_DAYS, now: datetime.datetime | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate for a server that is reached under ``hosts`` (names or addresses), and its private key.

    Args:
        authority: who signs it.
        hosts: the first one is also the certificate's common name.
        days: for how long it is good.
        now: from when; default: now.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    certificate = (
        _builder(subject, authority.certificate.subject, key.public_key(), days, now)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return certificate, key


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM."""
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        CertificateError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"certificate {path}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"certificate {path}: not a PEM certificate") from None


def write_private_key(path: Path, key: ec.EllipticCurvePrivateKey, ssh: bool = False) -> None:
    """Write a private key that only its owner can read; ``ssh``: in OpenSSH's format, which SuperNodes want."""
    kind = serialization.PrivateFormat.OpenSSH if ssh else serialization.PrivateFormat.PKCS8
    content = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(content)


def write_key_pair(folder: Path, name: str) -> None:
    """Write ``NAME.key`` and ``NAME.pub``, the two halves of a new client key."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private_key(folder / f"{name}.key", key, ssh=True)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / f"{name}.pub").write_bytes(public + f" {name}\n".encode())


def check_key_pair(private: Path, public: Path) -> None:
    """Raise ``CertificateError`` if two files are not the two halves of one key."""
    try:
        key = serialization.load_ssh_private_key(private.read_bytes(), password=None)
        other = serialization.load_ssh_public_key(public.read_bytes())
    except OSError as error:
        raise CertificateError(f"key {error.filename}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"keys {private} and {public}: not in OpenSSH's format") from None
    if key.public_key() != other:
        raise CertificateError(f"key {public}: is not the other half of {private}")


def check_certificate(certificate: x509.Certificate, authority: x509.Certificate, name: str) -> None:
    """Raise ``CertificateError`` if a certificate is not (or not any more) good, or signed by someone else."""
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateError(f"{name}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        begin = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise CertificateError(f"{name}: only good from {begin}; is the clock right?")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateError(f"{name}: not signed by this consortium's authority") from None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime.datetime | None,
) -> x509.CertificateBuilder:
    # An hour back, so that a client whose clock is a little behind can use it at once.
    begin = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
