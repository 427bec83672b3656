"""Secure sums among clients with certificates: no client sends its update to neighbours that the server made up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from fakes import shared
from flwr.app import ConfigRecord
from secure_fakes import Drawn, Dropping, secure_app, secure_federate

from feddat.app.checkpoint import ServerState
from feddat.app.roster import FederationError
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember, flat
from feddat.deploy import pki
from feddat.deploy.certify import client_certificate
from feddat.privacy.secure_sum.identity import Identity, IdentityError
from feddat.privacy.secure_sum.masks import public_bytes
from feddat.privacy.secure_sum.terms import Rules

NAMES = ("ann", "bob", "cid")


@pytest.fixture
def identities():
    authority = pki.new_authority("consortium")
    found = {}
    for name in NAMES:
        key = ec.generate_private_key(ec.SECP384R1())
        certificate = client_certificate(authority, name, key.public_key()).public_bytes(Encoding.DER)
        found[name] = Identity(name, key, certificate, authority.certificate)
    return found


def test_certificates_change_no_number(tmp_path, identities):
    plain, certified = ServerState(shared()), ServerState(shared())
    everybody = [Drawn(name) for name in NAMES]
    secure_federate(everybody, plain, tmp_path / "plain", rounds=2)
    grid, strategy, _ = secure_federate(everybody, certified, tmp_path / "known", rounds=2, identities=identities)
    assert strategy.intake.failed == strategy.intake.refused == 0
    assert np.array_equal(flat(plain.shared), flat(certified.shared))
    up = [m.content["sum"]["bytes"] for m in grid.up if m.metadata.message_type == "train"]
    assert all(500 < len(offer) < 1000 for offer in up)


@pytest.mark.parametrize("shown", ["nothing", "another's certificate", "another authority's"])
def test_a_neighbour_that_the_server_has_made_up_gets_no_update_masked(tmp_path, identities, shown):
    """The server sends everybody keys of its own in place of cid's; then no client sends a masked update."""
    other = pki.new_authority("consortium")
    key = ec.generate_private_key(ec.SECP384R1())
    fake = Identity(
        "cid",
        key,
        client_certificate(other, "cid", key.public_key()).public_bytes(Encoding.DER),
        other.certificate,
    )

    class Inventing(Dropping):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            for message in messages:
                record = message.content.get("sum")
                if message.metadata.message_type == "query.share" and "cid" in record["fresh.names"]:
                    channel = public_bytes(X25519PrivateKey.generate())
                    credential = {
                        "nothing": b"",
                        "another's certificate": identities["ann"].credential("run", channel),
                        "another authority's": fake.credential("run", channel),
                    }[shown]
                    fresh = dict(zip(record["fresh.names"], record["fresh"], strict=True))
                    fresh["cid"] = channel + credential
                    values = dict(record) | {"fresh": [fresh[name] for name in record["fresh.names"]]}
                    message.content["sum"] = ConfigRecord(values)
            yield from super().send_and_receive(messages, timeout=timeout)

    everybody = [Drawn(name) for name in NAMES]
    grid = Inventing(secure_app(everybody, tmp_path, Rules(), identities), NAMES)
    with pytest.raises(FederationError, match="round 1, share: 1 of 3 clients could do their part"):
        secure_federate(everybody, ServerState(shared()), tmp_path, grid=grid)
    assert not [m for m in grid.up if m.metadata.message_type == "query.mask"]


def test_a_certificate_that_is_revoked_during_a_run_is_refused_from_the_next_round_on(tmp_path, identities):
    """A client checks another's certificate once per run, but looks for it on its list in every round."""
    members = {name: SecureMember(PersonalStore(tmp_path, name), Rules(), identities[name]) for name in NAMES}
    adapter = {"a": torch.zeros(4)}

    def share(round, shown=()):
        offers = {name: member.offer("run", round, adapter, adapter, bytes(32)) for name, member in members.items()}
        fresh = {name: offers[name][:32] + offers[name][80:] for name in shown}
        return members["ann"].share("run", round, NAMES, offers["bob"][32:64] + offers["cid"][32:64], fresh)

    assert share(1, shown=("bob", "cid")) and share(2)
    serial = x509.load_der_x509_certificate(identities["cid"].certificate).serial_number
    members["ann"].identity = replace(identities["ann"], revoked=frozenset({serial}))
    with pytest.raises(IdentityError, match="client cid's certificate: revoked by the consortium's authority"):
        share(3)
