"""Proof of who the other clients in a sum are.

Each client signs its key of the run with its own key, which the consortium's authority has certified. Without this, the
server could play all other clients itself, and subtract their updates from the sum. A client's certificate holds its
name and is valid only for clients, so the server cannot use its own certificate to act as a client. A client can keep
the authority's list of revoked certificates (``ca.crl``) in its folder, and then refuses those.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddat.privacy.secure_sum.errors import SumError

#: Files of a client's folder: its key, its certificate, and the authority's.
KEY_FILE, CERTIFICATE_FILE, AUTHORITY_FILE = "node.key", "node.crt", "ca.crt"
#: File of a client's or the authority's folder: the authority's list of revoked certificates.
REVOKED_FILE = "ca.crl"
#: Bytes of a credential.
MOST_CREDENTIAL = 2**13
_ECDSA = ec.ECDSA(hashes.SHA384())


class IdentityError(SumError):
    """A certificate cannot be used, or does not prove who a client is; the message names the file or the client."""


@dataclass(frozen=True)
class Identity:
    """A client's key and certificate, and the authority that all clients trust.

    Attributes:
        name: name of the client.
        key: its private key.
        certificate: its certificate, in DER.
        authority: certificate of the authority.
        revoked: serial numbers of the certificates that the authority has revoked.
    """

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    authority: x509.Certificate
    revoked: frozenset[int] = frozenset()

    @classmethod
    def read(cls, folder: Path, name: str) -> Identity:
        """Read a client's identity from its folder.

        Raises:
            IdentityError: a file is missing or cannot be used, or the certificate is not this client's, or is revoked.
        """
        certificate = _certificate(folder / CERTIFICATE_FILE)
        authority = _certificate(folder / AUTHORITY_FILE)
        path = folder / KEY_FILE
        try:
            key = load_ssh_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise IdentityError(f"key {path}: {error.strerror}") from None
        except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError):
            raise IdentityError(f"key {path}: not in OpenSSH's format") from None
        _check(certificate, authority, name, f"certificate {folder / CERTIFICATE_FILE}")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise IdentityError(f"certificate {folder / CERTIFICATE_FILE}: not that of the key {path}")
        found = cls(
            name, key, certificate.public_bytes(Encoding.DER), authority, read_revoked(folder / REVOKED_FILE, authority)
        )
        found.check_valid(name, certificate.serial_number)
        return found

    def credential(self, run: str, channel: bytes) -> bytes:
        """Return the proof that a run's key is this client's: its certificate and a signature."""
        signature = self.key.sign(_signed(run, self.name, channel), _ECDSA)
        return len(self.certificate).to_bytes(2) + self.certificate + signature

    def check(self, run: str, name: str, channel: bytes, credential: bytes) -> int:
        """Refuse a run's key unless its credential proves that it belongs to the client of this name.

        Returns:
            Serial number of the certificate, for :meth:`check_valid`.

        Raises:
            IdentityError: says why.
        """
        where = f"client {name}"
        length = int.from_bytes(credential[:2])
        if not credential or len(credential) > MOST_CREDENTIAL:
            raise IdentityError(f"{where}: shows no certificate of this consortium")
        try:
            certificate = x509.load_der_x509_certificate(credential[2 : 2 + length])
        except ValueError:
            raise IdentityError(f"{where}: shows no certificate of this consortium") from None
        _check(certificate, self.authority, name, f"{where}'s certificate")
        key = certificate.public_key()
        try:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise InvalidSignature
            key.verify(credential[2 + length :], _signed(run, name, channel), _ECDSA)
        except InvalidSignature:
            raise IdentityError(f"{where}: its key of this run is not signed by its certificate's") from None
        self.check_valid(name, certificate.serial_number)
        return certificate.serial_number

    def check_valid(self, name: str, serial: int) -> None:
        """Raise ``IdentityError`` if the authority has revoked a client's certificate, as far as this client knows."""
        if serial in self.revoked:
            raise IdentityError(f"client {name}'s certificate: revoked by the consortium's authority")


def read_revoked(path: Path, authority: x509.Certificate) -> frozenset[int]:
    """Return the serial numbers in an authority's list of revoked certificates; none if there is no list.

    Raises:
        IdentityError: the list cannot be read, or the authority did not sign it.
    """
    where, key = f"revoked certificates {path}", authority.public_key()
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
        signed = isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise IdentityError(f"{where}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{where}: not a PEM certificate revocation list") from None
    if not signed:
        raise IdentityError(f"{where}: not signed by this consortium's authority")
    return frozenset(entry.serial_number for entry in found)


def _check(certificate: x509.Certificate, authority: x509.Certificate, name: str, where: str) -> None:
    """Raise ``IdentityError`` unless a certificate is the authority's, for a client of this name, and valid now."""
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise IdentityError(f"{where}: good from {begin:%Y-%m-%d} to {end:%Y-%m-%d} only")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise IdentityError(f"{where}: not signed by this consortium's authority") from None
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    if list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise IdentityError(f"{where}: not one of a client")
    names = [str(found.value) for found in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [name]:
        raise IdentityError(f"{where}: of {', '.join(names)[:80] or 'nobody'}, expected {name}")


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise IdentityError(
            f"certificate {path}: {error.strerror}; secure aggregation needs it (`feddat deploy certify`)"
        ) from None
    except ValueError:
        raise IdentityError(f"certificate {path}: not a PEM certificate") from None


def _signed(run: str, name: str, channel: bytes) -> bytes:
    parts = (b"feddat secure sum channel", run.encode(), name.encode(), channel)
    return b"".join(len(part).to_bytes(4) + part for part in parts)
