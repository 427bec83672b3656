"""Keys that two clients agree on, and masks of a whole update that are made of a key.

X25519 (RFC 7748) for agreement, HKDF with SHA-256 (RFC 5869) for keys, ChaCha20 (RFC 8439) for masks, and with Poly1305
for what two clients tell each other by way of the server; all of the library ``cryptography``. Every key is bound to
the transcript of its attempt (:class:`feddat.privacy.secure_sum.terms.Terms`) and to what it is for.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.fixed_point import Ring

#: Bytes of a public key, of a tag of one client for another, and of what sealing adds.
KEY_BYTES, TAG_BYTES, SEAL_BYTES = 32, 16, 16
#: A key seals one message or makes one mask, so that nothing else has to tell them apart.
_NO_NONCE, _NO_STREAM_NONCE = bytes(12), bytes(16)
#: Bytes of a mask that are made at a time.
_BLOCK = 2**20


class KeyAgreementError(SumError):
    """A public key cannot be agreed with, or what was sealed is not from whom it is said to be."""


def derive(secret: bytes, transcript: bytes, purpose: str, length: int = 32) -> bytes:
    """Return a key for one purpose in one attempt."""
    return HKDF(SHA256(), length, salt=transcript, info=b"feddat secure sum\0" + purpose.encode()).derive(secret)


def private_key(seed: bytes) -> X25519PrivateKey:
    """Return the key pair of a seed of 16 bytes; whoever has the seed has the pair."""
    return X25519PrivateKey.from_private_bytes(derive(seed, b"", "pair"))


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public half of a key pair."""
    return key.public_key().public_bytes_raw()


def agree(own: X25519PrivateKey, other: bytes) -> bytes:
    """Return the secret that the owners of two key pairs have in common.

    Raises:
        KeyAgreementError: the other's public key is none.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise KeyAgreementError("a public key is none") from None


def add_mask(values: Ring, key: bytes, sign: int = 1) -> None:
    """Add the mask of a key to a ring's numbers in place, or take it away again with ``sign=-1``."""
    stream = Cipher(algorithms.ChaCha20(key, _NO_STREAM_NONCE), mode=None).encryptor()
    for at in range(0, values.size, _BLOCK // values.itemsize):
        part = values[at : at + _BLOCK // values.itemsize]
        mask = np.frombuffer(stream.update(bytes(part.nbytes)), values.dtype)
        if sign > 0:
            part += mask
        else:
            part -= mask


def seal(key: bytes, content: bytes) -> bytes:
    """Return what only the owner of the key can read, and nobody without it can have written; once per key."""
    return ChaCha20Poly1305(key).encrypt(_NO_NONCE, content, None)


def open_sealed(key: bytes, content: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        KeyAgreementError: it was not sealed with this key, or changed on its way.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NO_NONCE, content, None)
    except InvalidTag:
        raise KeyAgreementError("not sealed by whom it is said to be from, or for another attempt") from None


def tag(key: bytes, content: bytes) -> bytes:
    """Return the proof that the owner of a key has seen some content."""
    return hmac.digest(key, content, "sha256")[:TAG_BYTES]


def is_tag(key: bytes, content: bytes, found: bytes) -> bool:
    """Tell whether a proof is good; takes the same time either way."""
    return hmac.compare_digest(tag(key, content), found)


def commitment(name: str, seed: bytes) -> bytes:
    """Return 16 bytes by which a client's seed can be known once it is told, and not before."""
    return sha256(b"feddat secure sum seed\0" + name.encode() + b"\0" + seed).digest()[:16]
