"""Clients in a sum know each other by certificates of the consortium, whatever the server says."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from feddat.deploy import pki
from feddat.deploy.certify import certify, client_certificate
from feddat.deploy.folder import write_consortium
from feddat.privacy.secure_sum.identity import Identity, IdentityError

CHANNEL = bytes(range(32))


@pytest.fixture(scope="module")
def authority():
    return pki.new_authority("consortium")


def member(authority, name, **values):
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = client_certificate(authority, name, key.public_key(), **values)
    return Identity(name, key, certificate.public_bytes(Encoding.DER), authority.certificate)


def test_a_client_is_known_by_its_certificate_in_one_run_with_one_key(authority):
    ann, bob = member(authority, "ann"), member(authority, "bob")
    shown = ann.credential("run", CHANNEL)
    bob.check("run", "ann", CHANNEL, shown)
    for run, name, channel, problem in (
        ("other", "ann", CHANNEL, "not signed by its certificate's"),
        ("run", "ann", CHANNEL[::-1], "not signed by its certificate's"),
        ("run", "cid", CHANNEL, "client cid's certificate: of ann, expected cid"),
    ):
        with pytest.raises(IdentityError, match=problem):
            bob.check(run, name, channel, shown)
    for torn in (b"", shown[:-1], shown[:100], b"\xff" * 10_000):
        with pytest.raises(IdentityError, match="client ann"):
            bob.check("run", "ann", CHANNEL, torn)


def test_a_server_cannot_invent_a_client(authority):
    """A server's certificate does not pass as a client's, nor does one of the server's own authority."""
    bob = member(authority, "bob")
    certificate, key = pki.server_certificate(authority, ["ann"])
    server = Identity("ann", key, certificate.public_bytes(Encoding.DER), authority.certificate)
    with pytest.raises(IdentityError, match="client ann's certificate: not one of a client"):
        bob.check("run", "ann", CHANNEL, server.credential("run", CHANNEL))
    own = member(pki.new_authority("consortium"), "ann")
    with pytest.raises(IdentityError, match="not signed by this consortium's authority"):
        bob.check("run", "ann", CHANNEL, own.credential("run", CHANNEL))


def test_a_certificate_that_is_out_of_its_time_is_refused(authority):
    bob = member(authority, "bob")
    for now in (datetime.now(UTC) - timedelta(days=500), datetime.now(UTC) + timedelta(days=2)):
        ann = member(authority, "ann", now=now)
        with pytest.raises(IdentityError, match=r"client ann's certificate: good from .* only"):
            bob.check("run", "ann", CHANNEL, ann.credential("run", CHANNEL))


def test_a_new_consortium_has_all_that_clients_need(tmp_path):
    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"])
    ann, bob = (Identity.read(tmp_path / "c" / "clients" / name, name) for name in ("ann", "bob"))
    ann.check("run", "bob", CHANNEL, bob.credential("run", CHANNEL))
    assert ann.certificate != bob.certificate
    assert len(ann.credential("run", CHANNEL)) < 1000


def test_a_clients_own_files_are_checked(tmp_path):
    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"])
    ann, bob = (tmp_path / "c" / "clients" / name for name in ("ann", "bob"))
    with pytest.raises(IdentityError, match=r"node\.crt: of ann, expected eve"):
        Identity.read(ann, "eve")
    (ann / "node.key").write_bytes((bob / "node.key").read_bytes())
    with pytest.raises(IdentityError, match=r"node\.crt: not that of the key .*node\.key"):
        Identity.read(ann, "ann")
    (ann / "node.crt").unlink()
    with pytest.raises(IdentityError, match="No such file or directory; secure aggregation needs it"):
        Identity.read(ann, "ann")
    (ann / "node.crt").write_text("none")
    with pytest.raises(IdentityError, match="not a PEM certificate"):
        Identity.read(ann, "ann")


def test_an_invalid_key_cannot_be_certified(tmp_path, authority):
    (tmp_path / "a.pub").write_text("none")
    for path, problem in ((tmp_path / "a.pub", "not in OpenSSH's format"), (tmp_path / "b.pub", "No such file")):
        with pytest.raises(pki.CertificateError, match=problem):
            certify(authority, path, "ann", tmp_path / "a.crt")


def test_the_command_certifies_a_key_that_its_owner_has_made(tmp_path, capsys):
    from feddat.cli import main

    write_consortium(tmp_path / "c", ["ann"], ["127.0.0.1"])
    ann, eve = tmp_path / "c" / "clients" / "ann", tmp_path / "eve"
    eve.mkdir()
    pki.write_key_pair(eve, "node")
    (eve / "ca.crt").write_bytes((ann / "ca.crt").read_bytes())

    def certified(authority):
        with pytest.raises(SystemExit) as exit:
            main(["deploy", "certify", str(authority), "eve", str(eve / "node.pub"), "--out", str(eve / "node.crt")])
        return exit.value.code

    assert certified(tmp_path / "c" / "authority") == 0
    shown = Identity.read(eve, "eve").credential("run", CHANNEL)
    Identity.read(ann, "ann").check("run", "eve", CHANNEL, shown)
    assert certified(ann) == 2
    assert "ca.key: No such file or directory" in capsys.readouterr().err


def test_a_certificate_says_what_it_is_good_for(authority):
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = client_certificate(authority, "ann", key.public_key(), days=3)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=3)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
