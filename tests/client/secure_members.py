"""Clients of secure sums with their own disks, and a server that may lie to them."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.privacy.secure_sum import masks
from feddat.privacy.secure_sum.client import SEALED_BYTES
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.server import ServerSum
from feddat.privacy.secure_sum.terms import Offer, Rules, Terms

#: A key pair that the server made itself, to put in a client's place.
OWN = masks.private_key(b"the server's own")


class Members:
    """Clients c0, c1, ..., whose updates depend on their names; ``seals``: folder of their keys, else beside states."""

    def __init__(self, folder, count, size=8, rules=Rules(bits=16), seals=None):
        self.names = [f"c{place}" for place in range(count)]
        self.rules, self.size = rules, size
        keys = {name: None if seals is None else seals / name / "run.key" for name in self.names}
        self.of = {name: SecureMember(PersonalStore(folder, name, key=keys[name]), rules) for name in self.names}
        self.updates = {
            name: torch.from_numpy(np.random.default_rng(place).normal(0, 0.002, size).astype(np.float32))
            for place, name in enumerate(self.names)
        }


class Attempt:
    """One attempt at the sum of round 1, step by step; a client that refuses is in ``refused`` with its reason.

    Args:
        members: the clients.
        names: those in the attempt.
        fakes: those of them for which the server sends a mask key of its own.
        received: client -> the number that its adapter consists of; default: 0.
    """

    def __init__(self, members, names, fakes=(), received=None):
        self.members, self.names, self.fakes = members, sorted(names), set(fakes)
        self.refused, self.masked, self.revealed = {}, set(), {}
        offers, self.channels = {}, {}
        for name in self.names:
            number = (received or {}).get(name, 0.0)
            adapter = {"a": torch.full((members.size,), number)}
            told = hashlib.sha256(str(number).encode()).digest()
            made = members.of[name].offer("run", 1, {"a": adapter["a"] + members.updates[name]}, adapter, told)
            mask = masks.public_bytes(OWN) if name in self.fakes else made[32:64]
            offers[name], self.channels[name] = Offer(made[:32], mask, made[64:80]), made[:32]
        told = hashlib.sha256(b"0.0").digest()
        parts = tuple(offers[name] for name in self.names)
        self.terms = Terms("run", 1, members.size, members.rules, told, tuple(self.names), parts)
        self.server = ServerSum(self.terms)

    def _each(self, names, step):
        for name in sorted(names):
            try:
                step(name, self.members.of[name])
            except SumError as error:
                self.refused[name] = str(error)

    def share(self, names=None):
        def step(name, member):
            others = [other for other in self.names if other != name]
            keys = b"".join(self.terms.offer(other).mask for other in others)
            fresh = {other: self.channels[other] for other in others}
            self.server.add_sealed(name, member.share("run", 1, self.names, keys, fresh))

        self._each(self.names if names is None else names, step)
        for name in self.fakes:  # the server says that they shared, too
            self.server.add_sealed(name, bytes(SEALED_BYTES * (len(self.names) - 1)))

    def mask(self, names=None, sharers=None):
        sharers = self.server.sharers if sharers is None else sorted(set(sharers) & set(self.server.sharers))

        def step(name, member):
            sealed = self._sealed_for(name, sharers)
            self.server.add_masked(name, *member.mask("run", 1, self.terms.bitmap(sharers), sealed))
            self.masked.add(name)

        self._each(self.server.sharers if names is None else names, step)

    def _sealed_for(self, name, sharers):
        whole, senders = self.server.sealed_for(name), [one for one in self.server.sharers if one != name]
        pieces = {one: whole[SEALED_BYTES * at : SEALED_BYTES * (at + 1)] for at, one in enumerate(senders)}
        return b"".join(pieces[one] for one in sharers if one != name)

    def open(self, names=None, survivors=None):
        """Let clients confirm and reveal a set of survivors."""
        survivors = sorted(self.server.survivors if survivors is None else survivors)
        self.server._masked, self.server._tags = list(survivors), {}
        agreed = []

        def agree(name, member):
            self.server.add_tags(name, member.agree("run", 1, self.terms.bitmap(survivors)))
            agreed.append(name)

        def reveal(name, member):
            bitmap = self.terms.bitmap(self.server.witnesses)
            self.server.add_shares(name, member.reveal("run", 1, bitmap, self.server.tags_for(name)))
            self.revealed.setdefault(tuple(survivors), set()).add(name)

        self._each(set(survivors) if names is None else names, agree)
        self._each(agreed, reveal)

    def opened(self):
        """Return the sets that so many clients revealed that the sum of their real members can be read."""
        return [
            (frozenset(survivors) & self.masked - self.fakes, frozenset(by))
            for survivors, by in self.revealed.items()
            if len(by) >= self.terms.enough
        ]

    def total(self):
        return self.server.result() * self.terms.step


def honest(members, names=None, revealers=None, **settings):
    """Return a whole attempt; ``revealers``: the clients that the server asks to open the sum."""
    attempt = Attempt(members, names or members.names, **settings)
    attempt.share()
    attempt.mask()
    attempt.open(revealers)
    return attempt
