"""A complete attempt at a secure sum without messages, for the tests of the protocol."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from feddat.privacy.secure_sum import fixed_point
from feddat.privacy.secure_sum.client import ClientSum
from feddat.privacy.secure_sum.server import ServerSum
from feddat.privacy.secure_sum.terms import Rules, Terms

PHASES = ("offer", "share", "mask", "agree", "reveal")


class Attempt:
    """Clients, their key pairs and updates, and the server."""

    def __init__(self, updates, rules=Rules(), run="run", round=1, received=bytes(32)):
        self.names = sorted(updates)
        self.updates = updates
        self.channels = {name: X25519PrivateKey.generate() for name in self.names}
        self.clients = {name: ClientSum(name) for name in self.names}
        self.left = {}
        self.rules, self.run, self.round = rules, run, round
        self.received, self.server = received, None

    def begin(self, names):
        size = len(next(iter(self.updates.values())))
        offers = tuple(self.clients[name].offer(self.channels[name]) for name in names)
        self.terms = Terms(self.run, self.round, size, self.rules, self.received, tuple(names), offers)
        self.server = ServerSum(self.terms)

    def share(self, names):
        for name in names:
            self.server.add_sealed(name, self.clients[name].share(self.terms, self.channels[name]))

    def masked(self, name):
        sharers = self.terms.bitmap(self.server.sharers)
        sealed = self.server.sealed_for(name)
        found, self.left[name] = self.clients[name].mask(sharers, sealed, self.updates[name], self.channels[name])
        return found

    def mask(self, names):
        for name in names:
            self.server.add_masked(name, self.masked(name), self.clients[name].opened)

    def agree(self, names, survivors=None):
        survivors = self.terms.bitmap(survivors or self.server.survivors)
        for name in names:
            self.server.add_tags(name, self.clients[name].agree(survivors, self.channels[name]))

    def reveal(self, names):
        for name in names:
            bitmap = self.terms.bitmap(self.server.witnesses)
            tags = self.server.tags_for(name)
            self.server.add_shares(name, self.clients[name].reveal(bitmap, tags, self.channels[name]))

    def run_all(self, gone=None):
        """Take all steps and return the sum of levels. ``gone`` maps a phase to the names that drop out in it."""
        here = list(self.names)
        steps = {"offer": self.begin, "share": self.share, "mask": self.mask, "agree": self.agree}
        for phase, step in (steps | {"reveal": self.reveal}).items():
            here = [name for name in here if name not in (gone or {}).get(phase, ())]
            step(here)
        return self.server.result()

    def plain(self, names):
        """Return the same sum without any masks."""
        levels = [fixed_point.quantise(self.updates[n], self.rules.clip, self.terms.levels)[0] for n in names]
        return np.sum(levels, axis=0)
