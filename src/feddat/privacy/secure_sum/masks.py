"""Keys that two clients agree on, and the masks of whole updates that a key expands to.

Key agreement is X25519 (RFC 7748), key derivation HKDF with SHA-256 (RFC 5869). Masks are the keystream of ChaCha20
(RFC 8439). ChaCha20-Poly1305 seals what two clients tell each other through the server. All of these come from the
library ``cryptography``. Every key is bound to the transcript of its attempt
(:class:`feddat.privacy.secure_sum.terms.Terms`) and to its purpose.
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

#: Bytes of a public key, of one client's tag for another, and of the overhead of sealing.
KEY_BYTES, TAG_BYTES, SEAL_BYTES = 32, 16, 16
#: Nonces can be constant, because a key seals only one message or makes only one mask.
_NO_NONCE, _NO_STREAM_NONCE = bytes(12), bytes(16)
#: Bytes of a mask that are made at a time.
_BLOCK = 2**20


class KeyAgreementError(SumError):
    """A public key is invalid, or a sealed message is not from the client that it is said to be from."""


def derive(secret: bytes, transcript: bytes, purpose: str, length: int = 32) -> bytes:
    """Return a key for one purpose in one attempt."""
    return HKDF(SHA256(), length, salt=transcript, info=b"feddat secure sum\0" + purpose.encode()).derive(secret)


def private_key(seed: bytes) -> X25519PrivateKey:
    """Return the key pair of a seed of 16 bytes. The seed is as secret as the private key."""
    return X25519PrivateKey.from_private_bytes(derive(seed, b"", "pair"))


def public_bytes(key: X25519PrivateKey) -> bytes:
    """Return the public half of a key pair."""
    return key.public_key().public_bytes_raw()


def agree(own: X25519PrivateKey, other: bytes) -> bytes:
    """Return the common secret of two key pairs, given one of them and the public key of the other.

    Raises:
        KeyAgreementError: the other public key is invalid.
    """
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise KeyAgreementError("a public key is invalid") from None


def add_mask(values: Ring, key: bytes, sign: int = 1) -> None:
    """Add a key's mask to a ring's numbers in place, or subtract it with ``sign=-1``."""
    stream = Cipher(algorithms.ChaCha20(key, _NO_STREAM_NONCE), mode=None).encryptor()
    for at in range(0, values.size, _BLOCK // values.itemsize):
        part = values[at : at + _BLOCK // values.itemsize]
        mask = np.frombuffer(stream.update(bytes(part.nbytes)), values.dtype)
        if sign > 0:
            part += mask
        else:
            part -= mask


def seal(key: bytes, content: bytes) -> bytes:
    """Encrypt and authenticate a message; use a key only once."""
    return ChaCha20Poly1305(key).encrypt(_NO_NONCE, content, None)


def open_sealed(key: bytes, content: bytes) -> bytes:
    """Return the content of a sealed message.

    Raises:
        KeyAgreementError: it was not sealed with this key, or was altered.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_NO_NONCE, content, None)
    except InvalidTag:
        raise KeyAgreementError("not sealed by the client that it is said to be from, or for another attempt") from None


def tag(key: bytes, content: bytes) -> bytes:
    """Return a proof that the owner of a key has seen some content."""
    return hmac.digest(key, content, "sha256")[:TAG_BYTES]


def is_tag(key: bytes, content: bytes, found: bytes) -> bool:
    """Return whether a proof is valid; the time taken does not depend on the result."""
    return hmac.compare_digest(tag(key, content), found)


def commitment(name: str, seed: bytes) -> bytes:
    """Return 16 bytes that identify a client's seed once it is revealed, and hide it until then."""
    return sha256(b"feddat secure sum seed\0" + name.encode() + b"\0" + seed).digest()[:16]
