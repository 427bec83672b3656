"""What all clients in one attempt at a sum must agree on, and what follows from it: threshold, sizes, noise."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256

from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.masks import KEY_BYTES
from feddat.privacy.secure_sum.shares_of_noise import NoisePlan, plan_noise

#: A sum of fewer is never made: of two, each client would know the other's update.
LEAST_SUM = 3
#: The most clients of one attempt. Each shares its secrets among all others, in time that grows with their square.
MOST_SUM = 10_000
#: Bytes of the hash of what clients received.
HASH_BYTES = 32
#: Bytes of a commitment, and its place in an offer that its holder has not been told of: clients need none.
COMMITMENT_BYTES = 16
NO_COMMITMENT = bytes(COMMITMENT_BYTES)


@dataclass(frozen=True)
class Offer:
    """What a client begins an attempt with. All of it is public.

    Attributes:
        channel: public key of its channels to the other clients, the same for a whole run.
        mask: public key of its masks in this attempt.
        commitment: to the seed of its own mask. The server alone checks it, so clients are not told of the others'.
    """

    channel: bytes
    mask: bytes
    commitment: bytes

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            SumError: a length is wrong.
        """
        found = (len(self.channel), len(self.mask), len(self.commitment))
        if found != (KEY_BYTES, KEY_BYTES, COMMITMENT_BYTES):
            raise SumError(f"keys and commitment of {found} bytes, expected {(KEY_BYTES, KEY_BYTES, COMMITMENT_BYTES)}")


@dataclass(frozen=True)
class Rules:
    """What a run's settings say about its sums.

    Attributes:
        threshold: share of an attempt's clients; more than this share must stay to the end.
        least: smallest number of clients in a sum.
        bits: of the ring.
        clip: largest magnitude of a number of an update.
        norm: L2 norm that updates are clipped to; only where clients add noise.
        noise: multiplier of the noise that clients add in shares; 0: they add none.
        colluders: number of clients whose noise does not count.
        settings: hash of all settings of the run that its clients share. With other settings, for example a tiny
            learning rate, a client's update could be known in advance.
    """

    threshold: float = 0.5
    least: int = LEAST_SUM
    bits: int = 12
    clip: float = 0.01
    norm: float = 0.0
    noise: float = 0.0
    colluders: int = 0
    settings: str = ""


def enough(rules: Rules, clients: int) -> int:
    """Return t: how many of an attempt's clients must stay to the end, and how many shares give a secret.

    It is more than half of them, and at least the smallest number of clients in a sum. So at least that many clients
    know of every sum that was opened.
    """
    return max(math.floor(rules.threshold * clients + 1e-9) + 1, rules.least, LEAST_SUM)


def plan_of(rules: Rules, clients: int, size: int) -> NoisePlan | None:
    """Return how clients add noise to updates of ``size`` numbers; ``None``: they add none.

    Raises:
        SumError: the ring is too small, or too many clients may collude.
    """
    if not rules.noise:
        return None
    honest = enough(rules, clients) - rules.colluders
    return plan_noise(clients, honest, size, rules.bits, rules.clip, rules.norm, rules.noise)


@dataclass(frozen=True)
class Terms:
    """The terms of one attempt at one round's sum.

    Attributes:
        run, round: which the sum belongs to.
        size: numbers of an update.
        rules: of the run's sums.
        received: hash of what the clients trained from, 32 bytes: adapter, extra arrays, and all else that the server
            tells each of them. A client's update says more about its data if the others trained from another adapter
            (Pasquini, Francati, Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency",
            CCS 2022, doi 10.1145/3548606.3560557), so their masks then do not fit each other.
        names: of the clients in the attempt, sorted.
        offers: theirs, in this order.
    """

    run: str
    round: int
    size: int
    rules: Rules
    received: bytes
    names: tuple[str, ...]
    offers: tuple[Offer, ...]

    def __post_init__(self) -> None:
        """Refuse terms that no honest server would set.

        Raises:
            SumError: there are too few clients, or too many for the ring, or a name or key occurs twice.
        """
        if self.clients > MOST_SUM:
            raise SumError(f"{self.clients} clients in the sum, expected at most {MOST_SUM}")
        if list(self.names) != sorted(set(self.names)) or len(self.offers) != len(self.names):
            raise SumError("the clients' names are not sorted, each once, with an offer each")
        if len(self.received) != HASH_BYTES:
            raise SumError(f"a hash of {len(self.received)} bytes, expected {HASH_BYTES}")
        keys = {key for offer in self.offers for key in (offer.channel, offer.mask)}
        if len(keys) < 2 * len(self.offers):
            raise SumError("two clients offer the same key")
        if self.clients < max(self.rules.least, LEAST_SUM):
            raise SumError(f"{self.clients} clients in the sum, expected at least {max(self.rules.least, LEAST_SUM)}")
        if not 0.5 <= self.rules.threshold < 1:
            raise SumError(f"a threshold of {self.rules.threshold}, expected at least half and less than all")
        if self.plan is None and self.levels < fixed_point.LEAST_LEVELS:
            raise SumError(f"{self.rules.bits} bits are too few for a sum of {self.clients} clients")

    @property
    def clients(self) -> int:
        """Number of clients in the attempt."""
        return len(self.names)

    @property
    def enough(self) -> int:
        """How many clients must stay to the end, and how many shares give a secret (:func:`enough`)."""
        return enough(self.rules, self.clients)

    @cached_property
    def plan(self) -> NoisePlan | None:
        """How clients add noise in shares; ``None``: they add none."""
        return plan_of(self.rules, self.clients, self.size)

    @property
    def levels(self) -> int:
        """Number of levels on either side of 0 that each client has, its noise not counted."""
        return fixed_point.levels(self.clients, self.rules.bits) if self.plan is None else self.plan.levels

    @property
    def step(self) -> float:
        """Size of one level, in units of the update."""
        return self.rules.clip / self.levels if self.plan is None else self.plan.step

    @property
    def most(self) -> int:
        """Largest magnitude of a sum, divided by the number of clients in it; with noise, the whole ring."""
        return self.levels if self.plan is None else 2 ** (self.rules.bits - 1)

    @cached_property
    def transcript(self) -> bytes:
        """32 bytes that differ if anything differs that clients must agree on: everything but the commitments."""
        offers = [[name, o.channel.hex(), o.mask.hex()] for name, o in zip(self.names, self.offers, strict=True)]
        said = {"run": self.run, "round": self.round, "size": self.size, "rules": asdict(self.rules)}
        said |= {"received": self.received.hex(), "offers": offers}
        return sha256(b"feddat secure sum terms\0" + json.dumps(said, sort_keys=True).encode()).digest()

    def place(self, name: str) -> int:
        """Return the index of a client among the names.

        Raises:
            SumError: the client is not in the sum.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise SumError(f"client {name} is not in this sum") from None

    def offer(self, name: str) -> Offer:
        """Return a client's offer."""
        return self.offers[self.place(name)]

    def bitmap(self, names: Collection[str]) -> bytes:
        """Return a set of clients as one bit per name; the first name has the lowest bit."""
        wanted = set(names)
        number = sum(1 << place for place, name in enumerate(self.names) if name in wanted)
        return number.to_bytes((self.clients + 7) // 8, "little")

    def named(self, bitmap: bytes) -> tuple[str, ...]:
        """Return the clients of a bitmap.

        Raises:
            SumError: the bytes are no bitmap of these clients.
        """
        number = int.from_bytes(bitmap, "little")
        if len(bitmap) != (self.clients + 7) // 8 or number >> self.clients:
            raise SumError(f"a set of clients in {len(bitmap)} bytes that does not fit {self.clients} clients")
        return tuple(name for place, name in enumerate(self.names) if number >> place & 1)

    def agreed(self, survivors: Sequence[str]) -> bytes:
        """Return what clients confirm to each other: the terms, and who is in the sum."""
        return b"survivors\0" + self.transcript + self.bitmap(survivors)

    def to_json(self) -> dict[str, object]:
        """Return the terms as values that JSON can hold."""
        return {
            "run": self.run,
            "round": self.round,
            "size": self.size,
            "rules": asdict(self.rules),
            "received": self.received.hex(),
            "names": list(self.names),
            "offers": [[offer.channel.hex(), offer.mask.hex(), offer.commitment.hex()] for offer in self.offers],
        }

    @classmethod
    def from_json(cls, found: dict[str, object]) -> Terms:
        """Return the terms that :meth:`to_json` was called on."""
        offers = tuple(Offer(*map(bytes.fromhex, offer)) for offer in found["offers"])  # type: ignore[attr-defined]
        return cls(
            run=str(found["run"]),
            round=int(found["round"]),  # type: ignore[call-overload]
            size=int(found["size"]),  # type: ignore[call-overload]
            rules=Rules(**found["rules"]),  # type: ignore[arg-type]
            received=bytes.fromhex(str(found["received"])),
            names=tuple(found["names"]),  # type: ignore[arg-type]
            offers=offers,
        )
