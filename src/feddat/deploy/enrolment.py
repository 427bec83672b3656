"""How a client joins a consortium: it receives an invitation and sends back a request.

| file | made by | holds |
| --- | --- | --- |
| ``invitation.json`` | ``deploy init`` | address, model and authority of the consortium, signed by the authority |
| ``NAME.csr`` | the client: ``deploy join``, ``renew`` | its name and public key, signed by its private key |

Neither is secret, and both can travel by e-mail: two people compare the fingerprints of the authority and the client
over another channel. A request (PKCS #10) names its authority, so another consortium cannot use it. A request for a new
key is also signed by the old key, and its fingerprint need not be compared.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID, NameOID

from feddat.config.privacy import LEVELS, Level
from feddat.deploy import pki
from feddat.deploy.errors import DeployError
from feddat.files import write_json

#: Valid client names. They become file names, and pass through configuration files and command lines.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
#: A part of a server's name between dots (RFC 1123, and underscores as in Docker's names), and the longest name.
_LABEL, _MOST_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"), 253
_VERSION = 1
_MOST_INVITATION = 2**16
_ADDRESS = re.compile(r"[A-Za-z0-9._:\[\]-]+:[0-9]{1,5}")
_ECDSA = ec.ECDSA(hashes.SHA384())


@dataclass(frozen=True)
class Invitation:
    """What a client must know about a consortium.

    Attributes:
        server: ``HOST:PORT``.
        model: name of the foundation model.
        hub_model: the model is on the Hub, and the clients' files name it.
        authority: certificate of the authority that signs the server's certificate.
        hashes: hashes of the model's parts, by which a client checks that it has the same model.
        privacy: level and ε of the consortium's runs, which a client requires by default. Invitations of earlier
            versions, and of consortia without privacy, do not name them.
    """

    server: str
    model: str
    hub_model: bool
    authority: x509.Certificate
    hashes: Mapping[str, str] = field(default_factory=dict)
    privacy: tuple[Level, float] = ("none", 8.0)

    def content(self) -> dict[str, Any]:
        """Return the signed content."""
        level, epsilon = self.privacy
        promised = {} if level == "none" else {"privacy": {"level": level, "epsilon": epsilon}}
        return promised | {
            "version": _VERSION,
            "server": self.server,
            "model": self.model,
            "hub_model": self.hub_model,
            "hashes": dict(self.hashes),
            "authority": self.authority.public_bytes(serialization.Encoding.PEM).decode(),
        }


def write_invitation(path: Path, invitation: Invitation, key: ec.EllipticCurvePrivateKey) -> None:
    """Write an invitation, signed by the authority's key, completely or not at all."""
    content = invitation.content()
    signature = b64encode(key.sign(_signed(content), _ECDSA)).decode()
    write_json(path, content | {"signature": signature})


def read_invitation(path: Path) -> Invitation:
    """Read an invitation.

    Raises:
        DeployError: it cannot be read, is not signed by the authority that it names, or the authority's certificate is
            not valid now.
    """
    where = f"invitation {path}"
    try:
        if path.stat().st_size > _MOST_INVITATION:
            raise DeployError(f"{where}: larger than {_MOST_INVITATION} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        signature = b64decode(content.pop("signature"), validate=True)
        version = content["version"]
        authority = x509.load_pem_x509_certificate(content["authority"].encode())
        invitation = Invitation(
            content["server"],
            content["model"],
            content["hub_model"],
            authority,
            dict(content["hashes"]),
            _privacy(content.get("privacy")),
        )
    except OSError as error:
        raise DeployError(f"{where}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DeployError(f"{where}: not an invitation of `feddat deploy init`") from None
    if version != _VERSION:
        raise DeployError(f"{where}: version {version!r}, this feddat knows version {_VERSION}; is it up to date?")
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DeployError(f"{where}: its authority's key is not on an elliptic curve")
    try:
        key.verify(signature, _signed(content), _ECDSA)
    except InvalidSignature:
        raise DeployError(f"{where}: not signed by the authority that it names; it was altered in transit") from None
    pki.check_certificate(authority, authority, f"{where}: its authority's certificate")
    texts = (invitation.server, invitation.model, *invitation.hashes, *invitation.hashes.values())
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not _ADDRESS.fullmatch(texts[0]):
        raise DeployError(f"{where}: expected server (HOST:PORT), model and hashes, each in one line")
    return invitation


def _privacy(found: Any) -> tuple[Level, float]:
    """Return the level and ε that an invitation names; the defaults if it names none.

    Raises:
        ValueError: they are not a level and an ε.
    """
    if found is None:
        return ("none", 8.0)
    level, epsilon = found["level"], float(found["epsilon"])
    if level not in LEVELS or not 0 < epsilon < math.inf:
        raise ValueError(level)
    return LEVELS[LEVELS.index(level)], epsilon


def _signed(content: Mapping[str, Any]) -> bytes:
    return b"feddat invitation\0" + json.dumps(content, sort_keys=True).encode()


@dataclass(frozen=True)
class ClientRequest:
    """A client's request to a server's administrator to admit a key.

    Attributes:
        name: name of the client.
        key: the public key to admit.
        proof: signature by the client's previous key; empty if it had none.
    """

    name: str
    key: ec.EllipticCurvePublicKey
    proof: bytes = b""

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint."""
        return pki.key_fingerprint(self.key)

    def renews(self, old: ec.EllipticCurvePublicKey, authority: x509.Certificate) -> bool:
        """Return whether the owner of an old key has signed this request."""
        try:
            old.verify(self.proof, _renewal(self.name, self.key, authority), _ECDSA)
        except InvalidSignature:
            return False
        return True


def new_request(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    old: ec.EllipticCurvePrivateKey | None = None,
) -> x509.CertificateSigningRequest:
    """Return a client's request.

    Args:
        name: name of the client.
        key: the key to admit.
        authority: certificate of the consortium's authority.
        old: the client's previous key, if it has one.
    """
    who = [
        x509.NameAttribute(NameOID.COMMON_NAME, name),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, pki.certificate_fingerprint(authority)),
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(who))
    if old is not None:
        proof = old.sign(_renewal(name, key.public_key(), authority), _ECDSA)
        builder = builder.add_attribute(AttributeOID.UNSTRUCTURED_NAME, b64encode(proof))
    return builder.sign(key, hashes.SHA384())


def read_client_request(path: Path, authority: x509.Certificate) -> ClientRequest:
    """Read a client's request.

    Raises:
        CertificateError: the file is not a certificate request.
        DeployError: its name is not a valid client name, or it is for another consortium, or not signed by its own key.
    """
    request = pki.read_request(path)
    where = f"request {path}"
    if not request.is_signature_valid:
        raise DeployError(f"{where}: not signed by its own key; it was altered in transit")
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DeployError(f"{where}: expected a key on the curve P-384, as made by `feddat deploy join`")
    name, consortium = (
        _only(request.subject, kind) for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    )
    check_name(name, where)
    if consortium != pki.certificate_fingerprint(authority):
        raise DeployError(f"{where}: for another consortium; `feddat deploy join` needs this one's invitation.json")
    try:
        proof = b64decode(request.attributes.get_attribute_for_oid(AttributeOID.UNSTRUCTURED_NAME).value)
    except (x509.AttributeNotFound, ValueError):
        proof = b""
    return ClientRequest(name, key, proof)


def check_hosts(hosts: Sequence[str]) -> None:
    """Refuse what is not a name or an address of a server. Clients use the first, so it must not be an IPv6 address.

    Raises:
        DeployError: says what to give instead.
    """
    for host in hosts:
        _check_host(host)
    if hosts and ":" in hosts[0]:
        raise DeployError(f"host {hosts[0]}: the server does not listen on IPv6; give a name or an IPv4 address first")


def _check_host(host: str) -> None:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return
    address, _, port = host.rpartition(":")
    if not host.isascii():
        with contextlib.suppress(UnicodeError):
            raise DeployError(f"host {host}: expected its ASCII form, {host.encode('idna').decode()}")
    elif "/" in host:
        raise DeployError(f"host {host}: expected a name or an address, not a web address")
    elif port.isdecimal() and ":" not in address:
        raise DeployError(f"host {host}: expected a name or an address alone; --port {port} gives the port")
    labels = host.split(".")  # no name ends with a number
    if len(host) > _MOST_HOST or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        raise DeployError(f"host {host!r}: neither a name nor an address")


def check_name(name: str, where: str = "client") -> None:
    """Raise ``DeployError`` if a text is not a valid client name."""
    if not NAME.fullmatch(name):
        raise DeployError(f"{where}: name {name[:80]!r}: expected letters from a to z, digits, - and _, 64 at most")


def _only(subject: x509.Name, kind: x509.ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(kind)
    return str(found[0].value) if len(found) == 1 else ""


def _renewal(name: str, key: ec.EllipticCurvePublicKey, authority: x509.Certificate) -> bytes:
    """Return the bytes that an old key signs: the client's name, the consortium and the new key."""
    parts = (name.encode(), pki.certificate_fingerprint(authority).encode(), pki.public_line(key))
    return b"feddat renew\0" + b"\0".join(parts)
