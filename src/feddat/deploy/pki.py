"""A consortium's own certificate authority, the server's certificate, and the clients' keys.

The authority signs the server's certificate, by which clients identify the server. The server identifies clients by
their public keys. All keys are on the curve P-384, which Flower requires.
"""

from __future__ import annotations

import datetime
import ipaddress
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddat import admitted
from feddat.files import whole_file, write_atomic

#: Number of days that certificates of servers and of authorities are valid.
SERVER_DAYS, AUTHORITY_DAYS = 397, 3650
#: The largest certificate request, in bytes.
MOST_REQUEST = 2**16


class CertificateError(ValueError):
    """A certificate or key cannot be used; the message names the file."""


class PassphraseNeeded(CertificateError):
    """A key is encrypted, and no passphrase was given."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_authority(name: str) -> Authority:
    """Return a new certificate authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        certificate_builder(who, who, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(certificate, key)


def server_certificate(
    authority: Authority, hosts: Sequence[str], days: int = SERVER_DAYS, now: datetime.datetime | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate for a server with these ``hosts`` (names or addresses), and its private key.

    Args:
        authority: the authority that signs it.
        hosts: the first one is also the certificate's common name.
        days: number of days that it is valid.
        now: start of its validity; default: now.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    return sign_request(authority, server_request(key, hosts), days, now), key


def server_request(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> x509.CertificateSigningRequest:
    """Return a request for a server's certificate: its public key and its hosts, signed by its private key."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]))
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA384())
    )


def sign_request(
    authority: Authority,
    request: x509.CertificateSigningRequest,
    days: int = SERVER_DAYS,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """Return the certificate for a server's request; it takes only the key and the hosts from the request.

    Raises:
        CertificateError: the request is not signed by its own key, or names no hosts.
    """
    hosts = request_hosts(request)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateError("certificate request: its key is not on an elliptic curve")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    return (
        certificate_builder(subject, authority.certificate.subject, key, days, now)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


def request_hosts(request: x509.CertificateSigningRequest) -> list[str]:
    """Return the names and addresses in a server's request.

    Raises:
        CertificateError: the request is not signed by its own key, or names no hosts.
    """
    if not request.is_signature_valid:
        raise CertificateError("certificate request: not signed by its own key")
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        raise CertificateError("certificate request: names no hosts") from None
    if not (hosts := _hosts(names)):
        raise CertificateError("certificate request: names no hosts")
    return hosts


def certificate_hosts(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses in a server's certificate."""
    return _hosts(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _hosts(names: x509.SubjectAlternativeName) -> list[str]:
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM, completely or not at all."""
    write_atomic(path, certificate.public_bytes(serialization.Encoding.PEM))


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        CertificateError: the file cannot be read, or is not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"certificate {path}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"certificate {path}: not a PEM certificate") from None


def read_request(path: Path) -> x509.CertificateSigningRequest:
    """Read a PEM certificate request.

    Raises:
        CertificateError: the file cannot be read, is too large, or is not a certificate request.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_REQUEST + 1)
    except OSError as error:
        raise CertificateError(f"request {path}: {error.strerror}") from None
    if len(content) > MOST_REQUEST:
        raise CertificateError(f"request {path}: larger than {MOST_REQUEST} bytes")
    try:
        return x509.load_pem_x509_csr(content)
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"request {path}: not a PEM certificate request") from None


def write_request(path: Path, request: x509.CertificateSigningRequest) -> None:
    """Write a certificate request as PEM, completely or not at all."""
    write_atomic(path, request.public_bytes(serialization.Encoding.PEM))


def write_private_key(
    path: Path, key: ec.EllipticCurvePrivateKey, ssh: bool = False, passphrase: str | None = None
) -> None:
    """Write a private key that only its owner can read, whatever the umask and the mode of an existing file.

    Args:
        path: the file to write, completely or not at all.
        key: the key.
        ssh: use OpenSSH's format, which SuperNodes require.
        passphrase: encrypts the key; ``None``: the key is not encrypted.
    """
    kind = serialization.PrivateFormat.OpenSSH if ssh else serialization.PrivateFormat.PKCS8
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    content = key.private_bytes(serialization.Encoding.PEM, kind, encryption)
    with whole_file(path) as temporary:
        temporary.unlink(missing_ok=True)  # left by a killed process with the same process id
        temporary.touch(mode=0o600)
        temporary.write_bytes(content)


def read_authority(folder: Path, passphrase: str | None = None) -> Authority:
    """Read the authority's certificate and private key.

    Raises:
        PassphraseNeeded: the key is encrypted, and no passphrase is given.
        CertificateError: one cannot be read, they do not belong together, or the passphrase is wrong.
    """
    certificate, path = read_certificate(folder / "ca.crt"), folder / "ca.key"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"authority's key {path}: {error.strerror}") from None
    encrypted = b"-----BEGIN ENCRYPTED" in content
    if encrypted and passphrase is None:
        raise PassphraseNeeded(f"authority's key {path}: encrypted; give --ca-passphrase-file")
    try:
        key = serialization.load_pem_private_key(content, passphrase.encode() if encrypted and passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = "not a PEM private key, or the passphrase is wrong" if encrypted else "not a PEM private key"
        raise CertificateError(f"authority's key {path}: {problem}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(f"authority's key {path}: not the key of {folder / 'ca.crt'}")
    return Authority(certificate, key)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key."""
    return ec.generate_private_key(ec.SECP384R1())


def write_key_pair(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | None = None) -> None:
    """Write ``NAME.key`` and ``NAME.pub``, the two halves of a client's key; default: of a new key."""
    key = key or new_key()
    write_private_key(folder / f"{name}.key", key, ssh=True)
    write_public_key(folder / f"{name}.pub", key.public_key(), name)


def write_public_key(path: Path, key: ec.EllipticCurvePublicKey, comment: str) -> None:
    """Write a public key in OpenSSH's format, completely or not at all; the comment ends its line."""
    write_atomic(path, public_line(key) + f" {comment}\n".encode())


def public_line(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key in OpenSSH's format, without a comment."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a client's public key in OpenSSH's format.

    Raises:
        CertificateError: the file cannot be read, or is not such a key.
    """
    try:
        return admitted.read_public_key(path)
    except admitted.KeyFileError as error:
        raise CertificateError(str(error)) from None


def read_client_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a client's private key in OpenSSH's format.

    Raises:
        CertificateError: the file cannot be read, or is not such a key.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CertificateError(f"key {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError):
        raise CertificateError(f"key {path}: not in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"key {path}: not on an elliptic curve")
    return key


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key's fingerprint as ``ssh-keygen -lf`` shows it: ``SHA256:`` and 43 characters."""
    return "SHA256:" + b64encode(sha256(b64decode(public_line(key).split()[1])).digest()).rstrip(b"=").decode()


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Return a certificate's fingerprint as ``openssl x509 -fingerprint -sha256`` shows it, without the colons."""
    return certificate.fingerprint(hashes.SHA256()).hex().upper()


def check_key_pair(private: Path, public: Path) -> None:
    """Raise ``CertificateError`` if two files are not the two halves of one key."""
    if read_client_key(private).public_key() != read_public_key(public):
        raise CertificateError(f"key {public}: is not the other half of {private}")


def check_certificate(certificate: x509.Certificate, authority: x509.Certificate, name: str) -> None:
    """Raise ``CertificateError`` if a certificate is not valid now, or was not signed by the authority."""
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CertificateError(f"{name}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        begin = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise CertificateError(f"{name}: valid only from {begin}; is the clock right?")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateError(f"{name}: not signed by this consortium's authority") from None


def certificate_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    """Return the part that all certificates have in common.

    Args:
        subject: whose key it is.
        issuer: who signs it.
        key: the key.
        days: number of days that it is valid.
        now: start of its validity; default: now.
    """
    # Start an hour ago, so that a client whose clock is a little behind can use it at once.
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
