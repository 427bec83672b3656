"""Client certificates, by which clients identify each other in secure sums without trusting the server.

The server identifies clients by their keys and needs no certificates. Whoever holds the authority's key can make anyone
a client, so the key must belong to somebody other than the server's operator. What was issued stays beside the key:

| in the authority's folder | contents |
| --- | --- |
| ``issued/NAME/NUMBER.crt`` | all certificates of a client, the newest last |
| ``ca.crl`` | the revoked ones, a certificate revocation list (RFC 5280); clients keep a copy in their own folders |
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feddat.client_names import same_name
from feddat.deploy import pki
from feddat.deploy.enrolment import ClientRequest, check_name
from feddat.deploy.errors import DeployError
from feddat.files import locked, private_folder, write_atomic
from feddat.privacy.secure_sum.identity import REVOKED_FILE, read_revoked


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


class Issued:
    """The clients' certificates of one authority: issued and revoked ones.

    Args:
        folder: the authority's folder.
        authority: its certificate and key.
    """

    def __init__(self, folder: Path, authority: pki.Authority) -> None:
        self._folder, self._authority = folder / "issued", authority
        self.list = folder / REVOKED_FILE

    def certify(
        self, request: ClientRequest, again: bool = False, days: int = pki.SERVER_DAYS
    ) -> tuple[x509.Certificate, bool]:
        """Issue a client's certificate; return it, and whether certificates of earlier keys are revoked.

        Args:
            request: the client's request. Its fingerprint must have been compared.
            again: give a name another key, although its key did not sign the request or was revoked.
            days: number of days that the certificate is valid.

        Raises:
            DeployError: the key was revoked or belongs to another client; or the name has another key.
            IdentityError, CertificateError: the list of revoked certificates, or a certificate, cannot be read.
        """
        name, key = request.name, request.key
        with locked(self._folder, wait=True):
            revoked = read_revoked(self.list, self._authority.certificate)
            if pair := same_name([*self._names(), name]):
                raise DeployError(f"client {name}: {pair[0]!r} and {pair[1]!r} differ only in letter case")
            for owner, certificate in self._all():
                if certificate.public_key() != key:
                    continue
                if certificate.serial_number in revoked:
                    raise DeployError(
                        f"client {name}: its key was revoked as the key of {owner}; make a new one "
                        "(`feddat deploy renew`)"
                    )
                if owner != name:
                    raise DeployError(f"client {name}: its key is certified for client {owner}")
            before = self._of(name)
            others = [old for old in before if old.serial_number not in revoked and old.public_key() != key]
            if others and not again and not any(self._renews(request, old) for old in others):
                raise DeployError(
                    f"client {name}: a certificate was issued for another key, which did not sign this request; if "
                    "that key is lost, --again revokes it and certifies this one"
                )
            if before and not again and all(old.serial_number in revoked for old in before):
                raise DeployError(
                    f"client {name}: its certificates were revoked; if it is the same institution, --again certifies "
                    "another key for the name"
                )
            certificate = client_certificate(self._authority, name, key, days)
            pki.write_certificate(private_folder(self._folder / name) / f"{len(before) + 1}.crt", certificate)
            self._revoke(others)
        # Not only `others`: after a failure, the same call must say again that the list has to be sent.
        return certificate, any(old.public_key() != key for old in before)

    def revoke(self, name: str) -> int:
        """Revoke all certificates of a client; return how many of them were not revoked before.

        Raises:
            DeployError: no certificate was issued to the client here.
            IdentityError, CertificateError: as :meth:`certify`.
        """
        check_name(name)
        with locked(self._folder, wait=True):
            if not (found := self._of(name)):
                names = ", ".join(self._names()) or "none"
                raise DeployError(f"client {name}: {self._folder} has no certificate of it; clients are {names}")
            revoked = read_revoked(self.list, self._authority.certificate)
            valid = [certificate for certificate in found if certificate.serial_number not in revoked]
            self._revoke(valid)
        return len(valid)

    def _revoke(self, certificates: Iterable[x509.Certificate]) -> None:
        """Add certificates to the list, and sign it again."""
        now = datetime.datetime.now(datetime.UTC)
        serials = read_revoked(self.list, self._authority.certificate)
        if not (more := {certificate.serial_number for certificate in certificates} - serials):
            return
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._authority.certificate.subject)
            .last_update(now)
            .next_update(now + datetime.timedelta(days=pki.AUTHORITY_DAYS))  # there are no regular updates
        )
        for serial in sorted(serials | more):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        signed = builder.sign(self._authority.key, hashes.SHA384())
        write_atomic(self.list, signed.public_bytes(serialization.Encoding.PEM))

    def _renews(self, request: ClientRequest, old: x509.Certificate) -> bool:
        key = old.public_key()
        return isinstance(key, ec.EllipticCurvePublicKey) and request.renews(key, self._authority.certificate)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob("*") if path.is_dir())

    def _all(self) -> Iterator[tuple[str, x509.Certificate]]:
        return ((name, certificate) for name in self._names() for certificate in self._of(name))

    def _of(self, name: str) -> list[x509.Certificate]:
        paths = sorted((self._folder / name).glob("*.crt"), key=lambda path: (len(path.name), path.name))
        return [pki.read_certificate(path) for path in paths]
