"""A client's side of one attempt at a sum: five steps over plain bytes, each taken once.

| step | the client is told | it checks | it answers |
| --- | --- | --- | --- |
| offer | | | its keys, and a commitment to its own mask's seed |
| share | all clients' keys | its own are among them, there are enough | two sealed shares for each other client |
| mask | who shared, and what they sealed for it | it can open enough | its masked update, and whose shares it opened |
| agree | whose update has come | enough, and it opened the shares of all | a tag on that set for each other client |
| reveal | the others' tags | enough have seen the same set | one share per client |

A client opens another's shares only if both were told the same terms, and received the same adapter and settings. So
the clients that it agrees to are really in the sum: the server cannot name one whose masks it made up itself.

For each client it reveals a share of only one secret. For a client in the sum, that is the seed of its own mask. For
one that dropped out, it is the seed of the keys of its masks with others. A server that tells clients different sets of
survivors gets too few shares for any of them.

Between steps the state is JSON, because the client's process can end after each. The state holds secrets.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from feddat.privacy.noise import NoiseSource
from feddat.privacy.secure_sum import fixed_point, masks, shamir
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.masks import SEAL_BYTES, TAG_BYTES, KeyAgreementError
from feddat.privacy.secure_sum.shamir import SECRET_BYTES, SHARE_BYTES
from feddat.privacy.secure_sum.shares_of_noise import noise_share, rounded
from feddat.privacy.secure_sum.terms import Offer, Terms

#: The first bytes of the hash of what a client received, for the others' errors. The terms have the whole hash.
TOLD_BYTES = 8
#: What one client sends to another: these bytes, and a sealed share of either secret.
SEALED_BYTES = TOLD_BYTES + 2 * SHARE_BYTES + SEAL_BYTES
#: Stands for a share that a client does not have; no share has this value.
NO_SHARE = b"\xff" * SHARE_BYTES
#: The steps in their order.
STEPS = ("offer", "share", "mask", "agree", "reveal")


@dataclass
class ClientSum:
    """One client in one attempt.

    Attributes:
        name: name of the client.
        step: the last step that it took.
        pair_seed: seed of the key pair of its masks with others.
        self_seed: seed of its own mask.
        terms: of the attempt, from ``share`` on.
        held: client -> the two shares that this one holds for it.
        sharers, survivors: the clients that took the steps ``share`` and ``mask``.
    """

    name: str
    step: str = "offer"
    pair_seed: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))
    self_seed: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))
    terms: Terms | None = None
    held: dict[str, bytes] = field(default_factory=dict)
    sharers: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()

    def offer(self, channel: X25519PrivateKey) -> Offer:
        """Return the client's offer; ``channel``: its key pair of the run."""
        pair = masks.private_key(self.pair_seed)
        commitment = masks.commitment(self.name, self.self_seed)
        return Offer(masks.public_bytes(channel), masks.public_bytes(pair), commitment)

    def share(self, terms: Terms, channel: X25519PrivateKey) -> bytes:
        """Return sealed shares of its two secrets for every other client, in the order of names.

        Raises:
            SumError: the terms have other keys for this client than it offered.
        """
        self._take("share")
        told, made = terms.offer(self.name), self.offer(channel)
        if (told.channel, told.mask) != (made.channel, made.mask):
            raise SumError("the server gives an offer as this client's that it has not made")
        points = range(1, terms.clients + 1)
        pair, own = (shamir.split(seed, terms.enough, points) for seed in (self.pair_seed, self.self_seed))
        self.terms = terms
        self.held = {self.name: pair[terms.place(self.name)] + own[terms.place(self.name)]}
        mark = terms.received[:TOLD_BYTES]
        return b"".join(
            mark + masks.seal(self._key(channel, name, "shares", f"{self.name}\0{name}"), pair[place] + own[place])
            for place, name in enumerate(terms.names)
            if name != self.name
        )

    def mask(
        self,
        sharers: bytes,
        sealed: bytes,
        update: NDArray[np.float32],
        channel: X25519PrivateKey,
        source: NoiseSource | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return its masked update, packed, and what rounding and clipping left of it, float32 (N,).

        Args:
            sharers: bitmap of the clients that shared.
            sealed: what they sealed for this client, in the order of names.
            update: float32 (N,).
            channel: its key pair of the run.
            source: of the noise that the terms ask for; default: a new one from the system.

        Raises:
            SumError: this client is not among them, they are too few, or too few of their shares can be opened.
        """
        self._take("mask")
        terms = self._terms
        self.sharers = self._set(sharers, terms.names, "have shared")
        others = [name for name in self.sharers if name != self.name]
        if len(sealed) != SEALED_BYTES * len(others):
            raise SumError(f"{len(sealed)} bytes of shares, expected {SEALED_BYTES * len(others)}")
        self._open(others, sealed, channel)
        if update.shape != (terms.size,):
            raise SumError(f"an update of {update.size} numbers, and the sum is of {terms.size}")
        if terms.plan is None:
            found, left = fixed_point.quantise(update, terms.rules.clip, terms.levels)
        else:  # nothing is left for the next round: it would be beyond the norm
            source, left = source or NoiseSource.secure(), np.zeros_like(update)
            found = rounded(update, terms.plan, source) + noise_share(terms.size, terms.plan, source)
        values = fixed_point.to_ring(found, terms.rules.bits)
        masks.add_mask(values, masks.derive(self.self_seed, terms.transcript, "self"))
        pair = masks.private_key(self.pair_seed)
        for name in others:
            sign = 1 if name > self.name else -1
            masks.add_mask(values, pair_mask(terms, pair, name), sign)
        return fixed_point.pack(values, terms.rules.bits), left

    def _open(self, others: Sequence[str], sealed: bytes, channel: X25519PrivateKey) -> None:
        """Open what others have sealed for this client; what cannot be opened is left out.

        Raises:
            SumError: too few of them can be opened; says whose cannot, and why.
        """
        terms, unlike, unopened = self._terms, list[str](), list[str]()
        for place, name in enumerate(others):
            found = sealed[SEALED_BYTES * place : SEALED_BYTES * (place + 1)]
            key = self._key(channel, name, "shares", f"{name}\0{self.name}")
            try:
                self.held[name] = masks.open_sealed(key, found[TOLD_BYTES:])
            except KeyAgreementError:
                (unopened if found[:TOLD_BYTES] == terms.received[:TOLD_BYTES] else unlike).append(name)
        if len(self.held) >= terms.enough:
            return
        if unlike:
            raise SumError(
                f"clients received different adapters or settings: {_some(unlike)} not the same as {self.name}"
            )
        raise SumError(f"the shares of {_some(unopened)} cannot be opened: they were told other offers, or sent none")

    @property
    def opened(self) -> bytes:
        """Bitmap of the clients whose shares this one holds, itself included; from ``mask`` on."""
        return self._terms.bitmap(self.held)

    def agree(self, survivors: bytes, channel: X25519PrivateKey) -> bytes:
        """Return a tag on the set of survivors for each of the others in it, in the order of names.

        Raises:
            SumError: this client is not among them, they are too few, or it could not open the shares of one of them.
        """
        self._take("agree")
        terms = self._terms
        self.survivors = self._set(survivors, self.sharers, "are in the sum")
        if strange := [name for name in self.survivors if name not in self.held]:
            raise SumError(
                f"the sum would have {_some(strange)}, whose shares cannot be opened here: the server may have made up "
                "their masks"
            )
        content = terms.agreed(self.survivors)
        return b"".join(
            masks.tag(self._key(channel, name, "set", f"{self.name}\0{name}"), content)
            for name in self.survivors
            if name != self.name
        )

    def reveal(self, witnesses: bytes, tags: bytes, channel: X25519PrivateKey) -> bytes:
        """Return a share of one secret of every client that has shared, in the order of names.

        Args:
            witnesses: bitmap of the other clients that have confirmed the set of survivors.
            tags: their tags for this client, in the order of names.
            channel: its key pair of the run.

        Raises:
            SumError: too few have seen the same set.
        """
        self._take("reveal")
        terms, content = self._terms, self._terms.agreed(self.survivors)
        others = [name for name in terms.named(witnesses) if name != self.name]
        if not set(others) <= set(self.survivors) or len(tags) != TAG_BYTES * len(others):
            raise SumError("the tags on the set of survivors do not fit the set")
        good = [
            name
            for place, name in enumerate(others)
            if masks.is_tag(
                self._key(channel, name, "set", f"{name}\0{self.name}"),
                content,
                tags[TAG_BYTES * place : TAG_BYTES * (place + 1)],
            )
        ]
        if len(good) + 1 < terms.enough:
            raise SumError(
                f"{len(good) + 1} clients have seen the same set of survivors, expected at least {terms.enough}: the "
                "server told others another one, or they have gone"
            )
        pieces = []
        for name in self.sharers:
            pair, own = self.held.get(name, 2 * NO_SHARE)[:SHARE_BYTES], self.held.get(name, 2 * NO_SHARE)[SHARE_BYTES:]
            pieces.append(own if name in self.survivors else pair)
        return b"".join(pieces)

    @property
    def _terms(self) -> Terms:
        if self.terms is None:
            raise SumError("this client has not been told who is in the sum")
        return self.terms

    def _take(self, step: str) -> None:
        """Take the next step; no step is taken twice, even if it fails."""
        if STEPS.index(step) != STEPS.index(self.step) + 1:
            raise SumError(f"asked to {step}, but the last step of this client was: {self.step}")
        self.step = step

    def _set(self, bitmap: bytes, among: tuple[str, ...], what: str) -> tuple[str, ...]:
        names = self._terms.named(bitmap)
        if self.name not in names or not set(names) <= set(among):
            raise SumError(f"the set of clients that {what} leaves this one out, or has others than before")
        if len(names) < self._terms.enough:
            raise SumError(f"{len(names)} clients {what}, expected at least {self._terms.enough}")
        return names

    def _key(self, channel: X25519PrivateKey, other: str, purpose: str, way: str) -> bytes:
        shared = masks.agree(channel, self._terms.offer(other).channel)
        return masks.derive(shared, self._terms.transcript, f"{purpose}\0{way}")

    def to_json(self) -> dict[str, Any]:
        """Return the state as values that JSON can hold."""
        return {
            "name": self.name,
            "step": self.step,
            "pair_seed": self.pair_seed.hex(),
            "self_seed": self.self_seed.hex(),
            "terms": None if self.terms is None else self.terms.to_json(),
            "held": {name: shares.hex() for name, shares in self.held.items()},
            "sharers": list(self.sharers),
            "survivors": list(self.survivors),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ClientSum:
        """Return the state that :meth:`to_json` was called on."""
        return cls(
            name=found["name"],
            step=found["step"],
            pair_seed=bytes.fromhex(found["pair_seed"]),
            self_seed=bytes.fromhex(found["self_seed"]),
            terms=None if found["terms"] is None else Terms.from_json(found["terms"]),
            held={name: bytes.fromhex(shares) for name, shares in found["held"].items()},
            sharers=tuple(found["sharers"]),
            survivors=tuple(found["survivors"]),
        )


def pair_mask(terms: Terms, own: X25519PrivateKey, other: str) -> bytes:
    """Return the key of two clients' common mask, given the key pair of one and the name of the other."""
    return masks.derive(masks.agree(own, terms.offer(other).mask), terms.transcript, "pair")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
