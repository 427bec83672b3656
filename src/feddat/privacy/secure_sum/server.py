"""The server's side of one attempt at a sum: it passes on sealed messages, and adds up masked updates.

It holds at most one masked update beside the running sum, and never an update without its masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from feddat.privacy.secure_sum import fixed_point, masks, shamir
from feddat.privacy.secure_sum.client import SEALED_BYTES, pair_mask
from feddat.privacy.secure_sum.errors import SpoiledError, SumError
from feddat.privacy.secure_sum.fixed_point import Ring, RingError
from feddat.privacy.secure_sum.masks import TAG_BYTES
from feddat.privacy.secure_sum.shamir import SHARE_BYTES, ShareError
from feddat.privacy.secure_sum.terms import Offer, Terms


@dataclass
class ServerSum:
    """One attempt. Each message of a client is taken under its name, or refused.

    Attributes:
        terms: of the attempt.
    """

    terms: Terms
    _sealed: dict[str, bytes] = field(default_factory=dict)
    _total: Ring | None = None
    _masked: list[str] = field(default_factory=list)
    _opened: dict[str, frozenset[str]] = field(default_factory=dict)
    _tags: dict[str, bytes] = field(default_factory=dict)
    _shares: dict[str, bytes] = field(default_factory=dict)
    _weights: dict[tuple[int, ...], Mapping[int, int]] = field(default_factory=dict)

    @property
    def sharers(self) -> tuple[str, ...]:
        """The clients that have shared, in the order of names."""
        return tuple(sorted(self._sealed))

    @property
    def survivors(self) -> tuple[str, ...]:
        """The clients whose masked update is in the sum, in the order of names."""
        return tuple(sorted(self._masked))

    @property
    def ready(self) -> tuple[str, ...]:
        """The clients that will confirm the set of survivors: those that could open the shares of all of them."""
        survivors = set(self._masked)
        return tuple(name for name in self.survivors if survivors <= self._opened[name])

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The clients that have confirmed the set of survivors, in the order of names."""
        return tuple(sorted(self._tags))

    def add_sealed(self, name: str, sealed: bytes) -> None:
        """Take what a client has sealed for the others.

        Raises:
            SumError: it has the wrong size.
        """
        if len(sealed) != (expected := SEALED_BYTES * (self.terms.clients - 1)):
            raise SumError(f"{len(sealed)} bytes of sealed shares, expected {expected}")
        self._sealed[name] = sealed

    def sealed_for(self, name: str) -> bytes:
        """Return what the clients that have shared sealed for one client, in the order of names."""
        pieces = []
        for sender in self.sharers:
            if sender != name:
                place = self.terms.place(name)
                place -= place > self.terms.place(sender)  # a sender seals nothing for itself
                pieces.append(self._sealed[sender][SEALED_BYTES * place : SEALED_BYTES * (place + 1)])
        return b"".join(pieces)

    def add_masked(self, name: str, packed: NDArray[np.uint8], opened: bytes) -> None:
        """Add a client's masked update to the sum; ``opened``: bitmap of the clients whose shares it could open.

        Raises:
            SumError: either has the wrong size.
        """
        terms = self.terms
        found = frozenset(terms.named(opened))
        try:
            values = fixed_point.unpack(packed, terms.size, terms.rules.bits)
        except RingError as error:
            raise SumError(f"a masked update of {error}") from None
        if self._total is None:
            self._total = np.zeros(terms.size, fixed_point.ring_dtype(terms.rules.bits))
        self._total += values
        self._masked.append(name)
        self._opened[name] = found

    def check_ready(self) -> None:
        """Check that enough clients will confirm the set of survivors.

        Raises:
            SpoiledError: they will not, because they could not open a client's shares. It names the client of which
                most say so.
        """
        if self.enough(self.ready):
            return
        refused = Counter(name for one in self._masked for name in set(self._masked) - self._opened[one])
        client, count = min(refused.items(), key=lambda item: (-item[1], item[0]))
        raise SpoiledError(client, f"{count} of {len(self._masked)} clients cannot open their shares of it")

    def add_tags(self, name: str, tags: bytes) -> None:
        """Take a client's tags on the set of survivors.

        Raises:
            SumError: they have the wrong size.
        """
        if len(tags) != (expected := TAG_BYTES * (len(self._masked) - 1)):
            raise SumError(f"{len(tags)} bytes of tags, expected {expected}")
        self._tags[name] = tags

    def tags_for(self, name: str) -> bytes:
        """Return the tags of all other clients for one client, in the order of names."""
        survivors, pieces = self.survivors, []
        for sender in self.witnesses:
            if sender != name:
                place = survivors.index(name)
                place -= place > survivors.index(sender)
                pieces.append(self._tags[sender][TAG_BYTES * place : TAG_BYTES * (place + 1)])
        return b"".join(pieces)

    def add_shares(self, name: str, shares: bytes) -> None:
        """Take the shares that a client reveals.

        Raises:
            SumError: they have the wrong size.
        """
        if len(shares) != (expected := SHARE_BYTES * len(self._sealed)):
            raise SumError(f"{len(shares)} bytes of shares, expected {expected}")
        self._shares[name] = shares

    def enough(self, names: tuple[str, ...]) -> bool:
        """Return whether these clients are enough for the next step."""
        return len(names) >= self.terms.enough

    def result(self) -> NDArray[np.int64]:
        """Return the sum of the survivors' levels, int64 (N,), with all masks removed.

        Raises:
            SpoiledError: a client's shares give no secret, and no single other client can be the reason.
            SumError: shares are too few or give no secret, or the numbers cannot be a sum; nobody can see whose fault
                it is.
        """
        terms, survivors = self.terms, self.survivors
        if not self.enough(survivors) or self._total is None:
            raise SumError(f"{len(survivors)} clients in the sum, expected at least {terms.enough}")
        total = self._total.copy()
        for place, name in enumerate(self.sharers):
            seed = self._secret(name, place)
            if name in survivors:
                masks.add_mask(total, masks.derive(seed, terms.transcript, "self"), -1)
                continue
            pair = masks.private_key(seed)
            for other in survivors:
                masks.add_mask(total, pair_mask(terms, pair, other), -1 if name > other else 1)
        return fixed_point.from_ring(total, terms.rules.bits, len(survivors) * terms.most)

    def _secret(self, name: str, place: int) -> bytes:
        """Return the revealed secret of the client at this place among those that have shared.

        The secret is checked against the client's offer. If it does not match, one holder after the other is left out,
        so a client that reveals wrong shares does no harm as long as enough others are there.
        """
        terms = self.terms
        found = {
            terms.place(holder) + 1: share
            for holder in sorted(self._shares)
            if shamir.is_share(share := self._shares[holder][SHARE_BYTES * place : SHARE_BYTES * (place + 1)])
        }
        for left_out in (None, *found):
            points = tuple(point for point in found if point != left_out)[: terms.enough]
            if len(points) < terms.enough:
                continue
            if points not in self._weights:
                self._weights[points] = dict(zip(points, shamir.weights(points), strict=True))
            with suppress(ShareError):
                seed = shamir.combine({point: found[point] for point in points}, self._weights[points])
                if self._fits(name, seed):
                    return seed
        reason = f"{len(found)} shares do not give it, {terms.enough} right ones are needed"
        holders = len(self._shares)
        # If one holder lies, the others give the secret that an honest client has shared, as long as they are enough.
        # So without this client's fault, at most one share is missing, and those who revealed are just enough.
        if holders > terms.enough or (holders == terms.enough and len(found) < holders - 1):
            raise SpoiledError(name, reason)
        raise SumError(f"client {name}'s secret: {reason}")

    def _fits(self, name: str, seed: bytes) -> bool:
        offer = self.terms.offer(name)
        if name in self.survivors:
            return masks.commitment(name, seed) == offer.commitment
        return masks.public_bytes(masks.private_key(seed)) == offer.mask


def check_offer(offer: Offer) -> None:
    """Refuse an offer with an invalid key before other clients are told of it.

    Raises:
        SumError: a key is invalid.
    """
    for key in (offer.channel, offer.mask):
        masks.agree(X25519PrivateKey.generate(), key)
